// Long tables get a field that keeps the rows which hold all its words; it is kept in the address (#reported=…).
(() => {
  "use strict";
  const plain = (text) => text.toLowerCase().replace(/[^\p{L}\p{N}.-]+/gu, " ");
  for (const table of document.querySelectorAll("table[data-sortable][data-name]")) {
    const rows = [...table.tBodies[0].rows];
    if (rows.length < 60) continue;
    const box = document.createElement("div"), label = document.createElement("label");
    const field = document.createElement("input"), count = document.createElement("output");
    box.className = "ba-search";
    field.type = "search";
    field.id = `find-${table.dataset.name}`;
    label.htmlFor = field.id;
    label.textContent = "Find rows";
    field.placeholder = "such as: convnext clip imagenet-r";
    box.append(label, field, count);
    table.closest(".ba-scroll").before(box);
    const words = (row) => plain([...row.cells].map((cell) => ` ${cell.textContent}`).join(""));
    const heading = words(table.tHead.rows[0]); // names of models may stand there only
    const texts = rows.map((row) => heading + words(row));
    const starts = (text, word) => text.includes(` ${word}`) || text.includes(`-${word}`);
    const find = () => {
      const wanted = plain(field.value).split(" ").filter(Boolean);
      rows.forEach((row, i) => { row.hidden = !wanted.every((word) => starts(texts[i], word)); });
      count.textContent = `${rows.filter((row) => !row.hidden).length} of ${rows.length}`;
    };
    const key = table.dataset.name;
    field.addEventListener("input", () => {
      const state = new URLSearchParams(location.hash.slice(1));
      state.delete(key);
      if (field.value) state.set(key, field.value);
      history.replaceState(null, "", state.size ? `#${state}` : location.pathname + location.search);
      find();
    });
    field.value = new URLSearchParams(location.hash.slice(1)).get(key) ?? "";
    if (field.value) box.scrollIntoView();
    find();
  }
})();
