// Ranks the models by weighted steps; the same integer arithmetic as choose.py, whose result stands in the page.
(() => {
  "use strict";
  const data = JSON.parse(document.getElementById("choose-data").textContent);
  const byId = (id) => document.getElementById(id);
  const form = byId("choose");
  const [HIGHEST, keys] = [100, data.criteria.map((c) => c.key)];
  const input = (key) => byId(`w-${key}`);

  const flips = (given, order, score) => {
    const found = [];
    const winner = order[0];
    data.criteria.forEach((criterion, i) => {
      const means = criterion.means;
      if (means[winner] === null || order.length < 2) return;
      const others = order.slice(1).filter((m) => means[m] !== null);
      for (let size = 1; size <= HIGHEST - criterion.low; size++) {
        for (const change of [-size, size]) {
          const weight = given[i] + change;
          if (weight < criterion.low || weight > HIGHEST) continue;
          const after = (m) => score.get(m) + change * means[m];
          const ahead = others.filter((m) => after(m) > after(winner));
          if (!ahead.length) continue;
          const top = ahead.reduce((a, b) => (after(b) > after(a) ? b : a));
          found.push({ i, weight, change, winner: top });
          return;
        }
      }
    });
    return found.sort((a, b) => Math.abs(a.change) - Math.abs(b.change));
  };

  const rank = (given) => {
    const weighing = given.flatMap((w, i) => (w ? [i] : []));
    const models = data.models.map((_, m) => m);
    const ranked = models.filter((m) => weighing.every((i) => data.criteria[i].means[m] !== null));
    const score = new Map(ranked.map((m) => [m, weighing.reduce((sum, i) => sum + given[i] * data.criteria[i].means[m], 0)]));
    const order = [...ranked].sort((a, b) => score.get(b) - score.get(a));
    const count = Math.max(1, ...weighing.map((i) => data.criteria[i].draws[0].length));
    const best = new Map(ranked.map((m) => [m, 0]));
    for (let k = 0; k < count; k++) {
      let top = -Infinity;
      let first = [];
      for (const m of ranked) {
        let total = 0;
        for (const i of weighing) {
          const draws = data.criteria[i].draws[m];
          total += given[i] * draws[draws.length === 1 ? 0 : k];
        }
        if (total > top) [top, first] = [total, [m]];
        else if (total === top) first.push(m);
      }
      for (const m of first) best.set(m, best.get(m) + 1 / first.length / count);
    }
    return { order, score, best, unranked: models.filter((m) => !score.has(m)), flips: weighing.length ? flips(given, order, score) : [] };
  };

  const label = (m) => data.models[m].label;
  // A share of finitely many draws is never certainty.
  const percent = (share) => (share >= 0.995 ? ">99%" : share < 0.005 ? "<1%" : `${Math.round(share * 100)}%`);
  const points = (score) => ((score < 0 ? "−" : "+") + Math.abs(score / 100000).toFixed(2));
  const cell = (row, tag, text) => {
    const made = document.createElement(tag);
    made.textContent = text;
    if (tag === "th") made.scope = "row";
    else made.className = "num";
    row.append(made);
  };
  let later = 0;
  const show = (remember) => {
    const given = keys.map((key) => Number(input(key).value));
    const result = rank(given);
    const body = byId("ranking").tBodies[0];
    body.replaceChildren(...result.order.map((m) => {
      const row = document.createElement("tr");
      row.dataset.model = data.models[m].name;
      row.dataset.score = result.score.get(m);
      row.dataset.best = result.best.get(m);
      cell(row, "th", label(m));
      cell(row, "td", points(result.score.get(m)));
      cell(row, "td", percent(result.best.get(m)));
      return row;
    }));
    keys.forEach((key, i) => { byId(`o-${key}`).textContent = given[i]; });
    for (const button of form.querySelectorAll("[data-preset]")) {
      const weights = data.presets[button.dataset.preset] || {};
      button.setAttribute("aria-pressed", String(keys.every((key, i) => given[i] === (weights[key] || 0))));
    }
    const none = !given.some(Boolean);
    const weighed = data.criteria.flatMap((criterion, i) => (given[i] ? [`${criterion.label} ${given[i]}`] : []));
    byId("weighing").textContent = `Weights: ${weighed.join(", ") || "none"}.`;
    const tied = result.order.filter((m) => result.score.get(m) === result.score.get(result.order[0]));
    const unranked = byId("unranked");
    unranked.hidden = !result.unranked.length;
    unranked.textContent = `Not ranked, for want of a number that has weight: ${result.unranked.map(label).join(", ")}.`;
    const flip = byId("flip");
    const change = result.flips[0];
    flip.hidden = none || !result.order.length;
    flip.textContent = change
      ? `What would flip it: ${data.criteria[change.i].label} at ${change.weight} instead of ${given[change.i]}; then ${label(change.winner)} is first.`
      : "No change of a single weight would put another model first.";
    if (change) Object.assign(flip.dataset, { criterion: keys[change.i], weight: change.weight });
    else for (const name of ["criterion", "weight"]) delete flip.dataset[name];
    clearTimeout(later); // a screen reader hears where a drag ended, not every step of it
    later = setTimeout(() => {
      const say = byId("choice");
      say.hidden = false;
      if (none) say.textContent = "No weight is set: all models are equal.";
      else if (!result.order.length) say.textContent = "No model has a number for everything that has weight.";
      else if (tied.length > 1) say.textContent = `A tie of ${tied.map(label).join(", ")}: equal in all that is weighed.`;
      else say.textContent = `${label(result.order[0])} comes first, with a chance of ${percent(result.best.get(result.order[0]))} of being the best.`;
    }, 200);
    if (remember) {
      const hash = keys.flatMap((key, i) => (given[i] ? [`${key}=${given[i]}`] : [])).join("&");
      history.replaceState(null, "", `#${hash || "none"}`);
    }
  };
  const setWeights = (weights) => {
    for (const key of keys) input(key).value = weights[key] || 0;
  };
  const fromAddress = () => {
    const hash = location.hash.slice(1);
    if (hash !== "none" && !keys.some((key) => new URLSearchParams(hash).has(key))) return false;
    setWeights(Object.fromEntries(new URLSearchParams(hash)));
    return true;
  };
  form.hidden = false;
  form.addEventListener("input", () => show(true));
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("click", (event) => {
    const button = event.target.closest("[data-preset]");
    if (!button) return;
    setWeights(data.presets[button.dataset.preset] || {});
    show(true);
  });
  addEventListener("hashchange", () => fromAddress() && show(false));
  fromAddress();
  show(false);
})();
