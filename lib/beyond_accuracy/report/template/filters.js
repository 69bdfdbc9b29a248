// Filters of a page, kept in its address: `show` is told what is wanted, by name, and says how many of how many fit.
const filtered = (show) => {
  "use strict";
  const form = document.getElementById("filters");
  if (!form) return;
  const shown = document.getElementById("shown");
  const apply = () => { shown.textContent = show(Object.fromEntries(new FormData(form))); };
  const remember = () => {
    const wanted = new URLSearchParams([...new FormData(form)].filter(([, value]) => value)).toString();
    history.replaceState(null, "", wanted ? `#${wanted}` : location.pathname);
    apply();
  };
  const read = () => {
    if (!location.hash.includes("=")) return apply();
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const select of form.querySelectorAll("select")) {
      const value = wanted.get(select.name) || "";
      select.value = [...select.options].some((option) => option.value === value) ? value : "";
    }
    apply();
    form.scrollIntoView();
  };
  form.hidden = false;
  form.addEventListener("change", remember);
  form.addEventListener("reset", () => setTimeout(remember));
  form.addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", read);
  read();
};
