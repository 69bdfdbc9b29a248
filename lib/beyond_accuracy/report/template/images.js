// Show only some images; without this script all of them are shown.
(() => {
  "use strict";
  const form = document.getElementById("filters");
  const shown = document.getElementById("shown");
  const sections = [...document.querySelectorAll("section.ba-look")];
  if (!form) return;
  form.hidden = false;
  const apply = () => {
    const wanted = Object.fromEntries(new FormData(form));
    let [seen, all] = [0, 0];
    for (const section of sections) {
      const off = wanted.section && section.querySelector("h2").id !== wanted.section;
      let here = 0;
      for (const shot of section.querySelectorAll(".ba-shot")) {
        shot.hidden =
          (wanted.model && !shot.dataset.models.split(" ").includes(wanted.model)) ||
          (wanted.truth && shot.dataset.truth !== wanted.truth) ||
          (wanted.factor && shot.dataset.factor !== wanted.factor);
        all += 1;
        here += shot.hidden ? 0 : 1;
      }
      const narrowed = wanted.model || wanted.truth || wanted.factor;
      section.hidden = Boolean(off || (narrowed && !here));
      seen += section.hidden ? 0 : here;
    }
    shown.textContent = `${seen} of ${all} images shown.`;
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  apply();
})();
