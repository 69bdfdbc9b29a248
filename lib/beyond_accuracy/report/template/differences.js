// Show only some differences; without this script all of them are shown.
filtered((wanted) => {
  let [seen, all] = [0, 0];
  for (const section of document.querySelectorAll("section.ba-diff")) {
    const off = wanted.dimension && section.querySelector("h2").id !== wanted.dimension;
    let here = 0;
    for (const head of section.querySelectorAll("thead [data-pair]")) head.hidden = wanted.pair && head.dataset.pair !== wanted.pair;
    for (const row of section.querySelectorAll("tbody tr")) {
      let fits = 0;
      for (const cell of row.querySelectorAll("[data-pair]")) {
        cell.hidden = wanted.pair && cell.dataset.pair !== wanted.pair;
        if (!cell.dataset.verdict) continue;
        all += 1;
        const other = wanted.verdict && cell.dataset.verdict !== wanted.verdict;
        cell.classList.toggle("other", Boolean(other));
        if (!cell.hidden && !other) fits += 1;
      }
      row.hidden = !fits;
      here += fits;
    }
    section.hidden = off || !here;
    section.querySelector(".ba-more").open = Boolean(wanted.dimension || wanted.pair || wanted.verdict);
    seen += section.hidden ? 0 : here;
  }
  return `${seen} of ${all} differences shown.`;
});
