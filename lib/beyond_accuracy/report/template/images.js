// Show only some images, and one at a time large; without this script all of them are shown.
filtered((wanted) => {
  let [seen, all] = [0, 0];
  for (const section of document.querySelectorAll("section.ba-look")) {
    const off = wanted.section && section.querySelector("h2").id !== wanted.section;
    let here = 0;
    for (const shot of section.querySelectorAll(".ba-shot")) {
      shot.hidden =
        (wanted.model && !shot.dataset.models.split(" ").includes(wanted.model)) ||
        (wanted.truth && !shot.dataset.classes.split("|").includes(wanted.truth)) ||
        (wanted.factor && shot.dataset.factor !== wanted.factor);
      all += 1;
      here += shot.hidden ? 0 : 1;
    }
    const narrowed = wanted.model || wanted.truth || wanted.factor;
    section.hidden = Boolean(off || (narrowed && !here));
    for (const more of section.querySelectorAll(".ba-more")) more.open = Boolean(narrowed || wanted.section);
    seen += section.hidden ? 0 : here;
  }
  return `${seen} of ${all} images shown${seen ? "." : ": nothing was picked for all of this; reset one choice."}`;
});
(() => {
  const large = document.createElement("dialog");
  large.className = "ba-large";
  large.setAttribute("aria-label", "Picture, large");
  large.addEventListener("click", () => large.close());
  document.body.append(large);
  for (const pair of document.querySelectorAll(".ba-pair:has(img)")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "ba-enlarge";
    button.textContent = "enlarge";
    button.setAttribute("aria-label", `Enlarge ${pair.querySelector("img").alt}`);
    const open = () => {
      const words = pair.parentNode.querySelector("figcaption").cloneNode(true);
      const close = document.createElement("button");
      close.textContent = "Close";
      large.replaceChildren(...[...pair.querySelectorAll("img")].map((image) => image.cloneNode()), words, close);
      large.showModal();
    };
    button.addEventListener("click", open);
    for (const image of pair.querySelectorAll("img")) image.addEventListener("click", open);
    pair.after(button);
  }
})();
