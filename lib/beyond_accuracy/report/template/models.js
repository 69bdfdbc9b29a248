// The table is the data: filters hide its rows, the plot draws them, the address keeps what was asked.
addEventListener("DOMContentLoaded", () => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const [form, table, plot, near] = ["models", "published", "plot", "near"].map(byId);
  const body = table.tBodies[0];
  const FEW = 25; // rows shown before the reader asks for all
  const TICKS = { odds: [1, 2, 5, 10, 20, 30, 40, 50, 60, 70, 80, 85, 90, 95, 98], log: [0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10000] };
  const SHAPES = Object.fromEntries([...document.querySelectorAll(".ba-key [data-family]")].map((s) => [s.dataset.family, s.querySelector("path").getAttribute("d")]));

  // Accuracies lie on a log-odds scale, costs on a logarithmic one.
  const axes = {};
  for (const cell of table.tHead.rows[0].cells) {
    const { key, n } = cell.dataset;
    if (key) axes[key] = { key, cell, n: Number(n), column: cell.cellIndex, odds: n !== undefined, label: document.querySelector(`option[value="${key}"]`).textContent };
  }
  const place = (axis, value) => (axis.odds ? Math.log(value / (100 - value)) : Math.log10(value));
  const back = (axis, at) => (axis.odds ? 100 / (1 + Math.exp(-at)) : 10 ** at);
  const models = [...body.rows].map((row, i) => {
    const value = {}, ends = {};
    for (const { key, column } of Object.values(axes)) {
      const cell = row.cells[column];
      value[key] = Number(cell.dataset.sort ?? NaN);
      ends[key] = cell.querySelector(".ba-ci")?.textContent.match(/[\d.]+/g).map(Number);
    }
    return { row, i, value, ends, ...row.dataset, text: row.cells[0].textContent.toLowerCase() };
  });
  const lines = decodeURIComponent(byId("csv").href.split(",").slice(1).join(",")).trim().split("\n"); // of all models, as above

  // What fits, and who is first among it.
  const tie = (p, q, n) => {
    const mean = (p + q) / 200;
    return Math.abs(p - q) / 100 <= 1.959964 * Math.sqrt((2 * mean * (1 - mean)) / n);
  };
  const controls = [...form.elements].filter((control) => control.name);
  const defaults = Object.fromEntries(controls.map((control) => [control.name, control.value]));
  let [fitting, ranked, ties, current, zoom, all] = [[], [], [], null, null, false];
  const fits = (model) => controls.every(({ type, name, value, dataset }) => {
    if (!value || name === "x" || name === "y") return true;
    if (type === "number") return dataset.way * (model.value[name] - value) <= 0; // what is not known does not fit
    if (type === "search") return value.toLowerCase().split(/\s+/).every((word) => model.text.includes(word));
    return model[name] === value;
  });
  const sorted = () => Object.values(axes).map((axis) => [axis.key, axis.cell.getAttribute("aria-sort")]).find((pair) => pair[1]);
  const sort = (key, way) => {
    for (let k = 0; k < 2 && axes[key].cell.getAttribute("aria-sort") !== way; k++) axes[key].cell.querySelector("button").click();
  };
  const percent = (model, key) => `${model.value[key].toFixed(1)} % [${model.ends[key].map((v) => v.toFixed(1)).join(", ")}]`;
  const told = (model) => (model.paper ? `${model.paper} (${model.model})` : model.model);

  const say = () => {
    const { label, key } = axes[form.y.value];
    const [first, next] = ranked;
    const asked = controls.filter(({ name, value }) => value && name !== "x" && name !== "y");
    const words = asked.map((control) => `${control.closest("label").firstChild.textContent.trim()} ${control.value}`);
    const count = `Of ${fitting.length} models${words.length ? ` (${words.join("; ")})` : ""}, `;
    if (!first) return "No published model fits: widen a filter.";
    if (!next) return `${count}${told(first)} alone has a value on ${label}: ${percent(first, key)}.`;
    if (ties.length === 1) return `${count}${told(first)} leads on ${label} with ${percent(first, key)}; the next is ${told(next)} with ${percent(next, key)}.`;
    const named = ties.slice(0, ties.length > 4 ? 3 : 4).map(told);
    const others = ties.length - named.length;
    const names = others ? `${named.join(", ")} and ${others} more` : `${named.slice(0, -1).join(", ")} and ${named.at(-1)}`;
    return `${count}${names} tie on ${label}, ${percent(ties[0], key)} to ${percent(ties.at(-1), key)}.`;
  };
  const list = () => {
    const shown = ranked.slice(0, 10);
    byId("best").replaceChildren(...shown.map((model) => {
      const [item, button, small] = ["li", "button", "small"].map((name) => document.createElement(name));
      button.type = "button";
      button.textContent = told(model);
      button.addEventListener("click", () => choose(model));
      button.addEventListener("focus", () => choose(model));
      model.button = button;
      const word = ties.length > 1 && ties.includes(model) ? ", ties" : model === ranked[0] ? ", leads" : "";
      small.textContent = `${percent(model, form.y.value)}${word}; ${model.value.params_m.toFixed(1)} M parameters`;
      item.append(button, small);
      return item;
    }));
    const [more, unknown] = [ranked.length - shown.length, fitting.length - ranked.length];
    const parts = [more && `${more} more`, unknown && `${unknown} without a value on ${axes[form.y.value].label}`].filter(Boolean);
    byId("rest").textContent = parts.length ? `${parts.join(", and ")} in the table below.` : "";
  };
  const rows = () => {
    let shown = 0;
    for (const row of body.rows) {
      const here = fitting.includes(models[row.dataset.place]);
      row.hidden = !here || (!all && shown >= FEW);
      shown += here && !row.hidden;
    }
    byId("shown").textContent = `: ${shown} shown of ${fitting.length} that fit, of ${models.length}`;
    byId("more-rows").hidden = fitting.length <= FEW;
    byId("more-rows").textContent = all ? `First ${FEW} only` : `Show all ${fitting.length}`;
  };

  // The plot.
  const draw = () => {
    const [width, height, left, top, bottom] = [plot.clientWidth, plot.clientHeight, 44, 10, 44];
    const [x, y] = [axes[form.x.value], axes[form.y.value]];
    const known = models.filter((m) => Number.isFinite(m.value[x.key] + m.value[y.key]));
    const range = (axis) => {
      const seen = known.filter((m) => m.paper || fitting.includes(m)).map((m) => place(axis, m.value[axis.key]));
      const [low, high] = [Math.min(...seen), Math.max(...seen)];
      return [low - 0.05 * (high - low) - 0.01, high + 0.05 * (high - low) + 0.01];
    };
    const [across, down] = zoom || [range(x), range(y)];
    const toX = (at) => left + ((at - across[0]) / (across[1] - across[0])) * (width - left - 12);
    const toY = (at) => height - bottom - ((at - down[0]) / (down[1] - down[0])) * (height - bottom - top);
    const make = (name, attributes, text = "") => {
      const made = document.createElementNS("http://www.w3.org/2000/svg", name);
      for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
      made.textContent = text;
      return made;
    };
    const parts = [];
    for (const [axis, [low, high], to, least] of [[x, across, toX, 40], [y, down, toY, 22]]) {
      let last = -1e9;
      for (const tick of ticks(axis, back(axis, low), back(axis, high))) {
        const at = to(place(axis, tick));
        if (Math.abs(at - last) < least) continue;
        last = at;
        const line = axis === x ? { x1: at, x2: at, y1: top, y2: height - bottom } : { x1: left, x2: width - 12, y1: at, y2: at };
        const spot = axis === x ? { x: at, y: height - bottom + 16, "text-anchor": "middle" } : { x: left - 6, y: at + 4, "text-anchor": "end" };
        parts.push(make("line", { class: "grid", ...line }), make("text", spot, String(Number(tick.toPrecision(4)))));
      }
    }
    parts.push(make("text", { x: width - 12, y: height - 8, "text-anchor": "end" }, x.odds ? `${x.label} (%)` : x.label));
    parts.push(make("text", { x: left + 4, y: top + 12 }, `${y.label} (%)`));
    const inside = known.filter((m) => {
      [m.x, m.y] = [toX(place(x, m.value[x.key])), toY(place(y, m.value[y.key]))];
      return m.x >= left && m.x <= width - 12 && m.y >= top && m.y <= height - bottom;
    });
    plot.seen = { inside: inside.filter((m) => m.paper || fitting.includes(m)), across, down, toX, toY, left, width };
    const rank = (m) => (m === current ? 3 : m.paper ? 2 : fitting.includes(m) ? 1 : 0);
    const taken = [];
    for (const m of inside.sort((a, b) => rank(a) - rank(b))) {
      const classes = [fitting.includes(m) ? "" : "out", m.paper && "paper", m === current && "near"].filter(Boolean).join(" ");
      const group = make("g", { class: classes, "data-family": m.family, "data-kind": m.kind, transform: `translate(${m.x},${m.y})` });
      group.append(make("path", { class: "p", d: SHAPES[m.family] }));
      parts.push(group);
    }
    for (const axis of current && inside.includes(current) ? [x, y].filter((a) => a.odds) : []) {
      const [low, high] = current.ends[axis.key].map((v) => (axis === x ? toX : toY)(place(axis, v)));
      const line = axis === x ? { x1: low, x2: high, y1: current.y, y2: current.y } : { x1: current.x, x2: current.x, y1: low, y2: high };
      parts.push(make("line", { class: "span", ...line }));
    }
    // Names where there is room for them: of the paper's four, the first, the highlighted one, and all where few are left.
    const worth = (m) => m === current || m.paper || m === ranked[0] || plot.seen.inside.length <= 15;
    for (const m of inside.filter((one) => worth(one) && rank(one)).sort((a, b) => rank(b) - rank(a))) {
      const text = m.paper || m.model.split(/[./]/)[0];
      const long = text.length * 6.8;
      const free = [0, -14, 14, -28, 28].flatMap((dy) => [[m.x + 10, m.y + dy], [m.x - 10 - long, m.y + dy]]).find(([bx, by]) =>
        bx > left && bx + long < width && by > top && by < height - bottom && !taken.some(([tx, ty, tl]) => Math.abs(ty - by) < 13 && tx < bx + long && bx < tx + tl));
      if (!free) continue;
      taken.push([...free, long]);
      parts.push(make("text", { x: free[0], y: free[1] + 4 }, text));
    }
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.replaceChildren(...parts);
  };
  const ticks = (axis, low, high) => {
    if (axis.odds ? high - low > 25 : high / low > 8) return TICKS[axis.odds ? "odds" : "log"].filter((tick) => tick >= low && tick <= high);
    const rough = (high - low) / 6;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = unit * [1, 2, 5, 10].find((k) => k * unit >= rough);
    return Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, k) => (Math.ceil(low / step) + k) * step);
  };
  const choose = (model) => {
    if (!model || model === current) return;
    for (const one of [current, model]) {
      one?.row.classList.toggle("near", one === model);
      if (one?.button) one.button[one === model ? "setAttribute" : "removeAttribute"]("aria-current", "true");
    }
    current = model;
    const known = Object.values(axes).filter(({ key }) => Number.isFinite(model.value[key]));
    const numbers = known.map((axis) => (axis.odds ? `${axis.label} ${percent(model, axis.key)}` : `${Number(model.value[axis.key].toPrecision(3))} ${axis.label}`));
    near.textContent = `${told(model)}: ${model.row.querySelector("small").textContent}. ${numbers.join(", ")}.`;
    draw();
  };
  const zoomBy = (factor) => {
    const { across, down, inside } = plot.seen;
    const [x, y] = [axes[form.x.value], axes[form.y.value]];
    const centre = inside.includes(current) ? [place(x, current.value[x.key]), place(y, current.value[y.key])] : [across, down].map(([a, b]) => (a + b) / 2);
    zoom = factor ? [across, down].map(([a, b], i) => [centre[i] - ((b - a) / 2) * factor, centre[i] + ((b - a) / 2) * factor]) : null;
    draw();
    remember();
  };
  const step = (side, way) => {
    const order = [...plot.seen.inside].sort((a, b) => a[side] - b[side] || a.i - b.i);
    const at = order.indexOf(current);
    choose(order[at < 0 ? (way > 0 ? 0 : order.length - 1) : Math.min(order.length - 1, Math.max(0, at + way))]);
  };

  // The address: what differs from the start, the order of the table, the part of the plot.
  const remember = () => {
    const state = new URLSearchParams(controls.filter(({ name, value }) => value !== defaults[name]).map(({ name, value }) => [name, value]));
    const [key, way] = sorted() || [];
    if (key && (key !== form.y.value || way !== "descending")) state.set("sort", `${key} ${way}`);
    if (zoom) state.set("zoom", zoom.flat().map((at) => at.toFixed(3)).join(" "));
    history.replaceState(null, "", state.size ? `#${state}` : location.href.split("#")[0]);
  };
  const recall = () => {
    const state = new URLSearchParams(location.hash.slice(1));
    if (location.hash.length > 1 && ![...Object.keys(defaults), "sort", "zoom"].some((name) => state.has(name))) return update(); // an anchor
    for (const control of controls) control.value = state.get(control.name) ?? defaults[control.name];
    for (const control of controls) if (control.tagName === "SELECT" && control.selectedIndex < 0) control.value = defaults[control.name];
    const parts = (state.get("zoom") || "").split(" ").map(Number);
    zoom = parts.length === 4 && parts.every(Number.isFinite) ? [parts.slice(0, 2), parts.slice(2)] : null;
    const [key, way] = (state.get("sort") || "").split(" ");
    if (axes[key] && ["ascending", "descending"].includes(way)) sort(key, way);
    else sort(form.y.value, "descending");
    update();
  };
  const update = () => {
    const key = form.y.value;
    fitting = models.filter(fits);
    ranked = fitting.filter((m) => Number.isFinite(m.value[key])).sort((a, b) => b.value[key] - a.value[key]);
    ties = ranked.filter((m) => tie(ranked[0].value[key], m.value[key], axes[key].n));
    for (const model of models) model.button = null;
    byId("answer").textContent = say();
    list();
    rows();
    draw();
  };

  models.forEach((model) => { model.row.dataset.place = model.i; });
  byId("tool").hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  const changed = (event) => {
    if (event.target.name === "x" || event.target.name === "y") zoom = null;
    if (event.target.name === "y") sort(form.y.value, "descending");
    update();
    remember();
  };
  form.addEventListener("input", changed);
  form.x.addEventListener("input", changed); // beside the plot, not inside the form
  byId("all-models").addEventListener("click", () => {
    for (const control of controls) if (!["x", "y"].includes(control.name)) control.value = "";
    zoom = null;
    update();
    remember();
  });
  byId("more-rows").addEventListener("click", () => { all = !all; rows(); });
  table.tHead.addEventListener("click", () => { rows(); remember(); });
  body.addEventListener("pointerover", (event) => choose(models[event.target.closest("tr")?.dataset.place]));
  byId("csv").addEventListener("click", (event) => {
    const order = [...body.rows].map((row) => models[row.dataset.place]).filter((model) => fitting.includes(model));
    event.currentTarget.href = `data:text/csv;charset=utf-8,${encodeURIComponent([lines[0], ...order.map((m) => lines[m.i + 1])].join("\n"))}%0A`;
  });
  for (const button of document.querySelectorAll("[data-zoom]")) button.addEventListener("click", () => zoomBy(Number(button.dataset.zoom)));
  plot.addEventListener("keydown", (event) => {
    const way = { ArrowRight: ["x", 1], ArrowLeft: ["x", -1], ArrowUp: ["y", -1], ArrowDown: ["y", 1] }[event.key];
    const factor = { "+": 0.5, "=": 0.5, "-": 2, 0: 0 }[event.key];
    if (way) step(...way);
    else if (factor !== undefined) zoomBy(factor);
    else return;
    event.preventDefault();
  });
  // Pointing names the nearest model; dragging a rectangle zooms into it.
  let from = null;
  const spot = (event) => [event.clientX - plot.getBoundingClientRect().x, event.clientY - plot.getBoundingClientRect().y];
  const nearest = ([px, py]) => {
    const away = (m) => (m.x - px) ** 2 + (m.y - py) ** 2;
    const best = plot.seen.inside.reduce((a, b) => (a && away(a) <= away(b) ? a : b), null);
    if (best && away(best) < 26 ** 2) choose(best);
  };
  const drag = (to) => ({ x: Math.min(from[0], to[0]), y: Math.min(from[1], to[1]), width: Math.abs(from[0] - to[0]), height: Math.abs(from[1] - to[1]) });
  plot.addEventListener("pointerdown", (event) => { if (event.pointerType === "mouse") from = spot(event); nearest(spot(event)); });
  plot.addEventListener("pointermove", (event) => {
    if (!from) return nearest(spot(event));
    const box = plot.querySelector(".drag") || plot.appendChild(document.createElementNS("http://www.w3.org/2000/svg", "rect"));
    box.setAttribute("class", "drag");
    for (const [name, value] of Object.entries(drag(spot(event)))) box.setAttribute(name, value);
  });
  addEventListener("pointerup", (event) => {
    if (!from) return;
    const box = drag(spot(event));
    from = null;
    if (box.width > 8 && box.height > 8) {
      const { across, down, toX, toY } = plot.seen;
      const at = (to, [a, b], pixel) => a + ((pixel - to(a)) / (to(b) - to(a))) * (b - a);
      zoom = [[at(toX, across, box.x), at(toX, across, box.x + box.width)], [at(toY, down, box.y + box.height), at(toY, down, box.y)]];
      remember();
    }
    draw();
  });
  addEventListener("resize", draw);
  addEventListener("hashchange", recall);
  recall();
});
