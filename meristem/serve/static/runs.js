// Runs: loss while it is trained, the forecast beside it, samples, scores with their intervals, energy.
import { json } from "./api.js";
import { button, el, field, guarded, svg } from "./dom.js";

const [W, H, LEFT, LOW] = [640, 260, 48, 28], EVERY = 5000;

export function curve(log, forecast) {                         // forecast: {loss, low, high} or undefined
  const rows = log.filter(row => Number.isFinite(row.loss)), held = log.filter(row => Number.isFinite(row.validation));
  const all = [...rows.map(row => row.loss), ...held.map(row => row.validation), ...(forecast ? [forecast.low, forecast.high] : [])];
  if (rows.length < 2) return el("p", { class: "quiet" }, "No losses yet.");
  const least = Math.min(...all), most = Math.max(...all), last = rows.at(-1).step;
  const x = step => LEFT + (W - LEFT - 8) * step / last, y = loss => 8 + (H - LOW - 8) * (most - loss) / (most - least || 1);
  const path = (list, key) => list.map((row, n) => `${n ? "L" : "M"}${x(row.step).toFixed(1)} ${y(row[key]).toFixed(1)}`).join("");
  const ticks = [0, 1, 2, 3, 4].map(n => least + (most - least) * n / 4);
  return svg("svg", { viewBox: `0 0 ${W} ${H}`, role: "img", "aria-label": `Loss of ${rows.length} steps, last ${rows.at(-1).loss.toFixed(3)}` },
    ...ticks.flatMap(tick => [svg("line", { class: "axis", x1: LEFT, x2: W, y1: y(tick), y2: y(tick) }), svg("text", { x: 2, y: y(tick) + 4 }, tick.toFixed(2))]),
    svg("text", { x: LEFT, y: H - 6 }, "step 0"), svg("text", { x: W - 90, y: H - 6 }, `step ${last}`),
    ...(forecast ? [svg("rect", { class: "band", x: LEFT, width: W - LEFT, y: y(forecast.high), height: Math.max(1, y(forecast.low) - y(forecast.high)) }),
      svg("line", { class: "forecast", x1: LEFT, x2: W, y1: y(forecast.loss), y2: y(forecast.loss) })] : []),
    svg("path", { class: "loss", d: path(rows, "loss") }), svg("path", { class: "validation", d: path(held, "validation") }));
}

const digits = value => (typeof value === "number" ? value.toPrecision(4).replace(/\.?0+$/, "") : String(value ?? ""));

function scores(told) {                                        // certificates: never a number without n and interval
  const rows = Object.entries(told).flatMap(([task, tree]) => {
    const list = Array.isArray(tree) ? tree : tree.scores || tree.certificates || [tree];
    return (Array.isArray(list) ? list : Object.values(list)).filter(one => one && one.value !== undefined).map(one => [task, one]);
  });
  if (!rows.length) return el("p", { class: "quiet" }, "No scores yet: meristem evaluate makes them.");
  return el("div", { class: "wide" }, el("table", {}, el("tr", {}, ...["score", "value", "95 % interval", "n", "chance or baseline", "items seen in training"].map(one => el("th", { scope: "col" }, one))),
    ...rows.map(([task, one]) => el("tr", {}, ...[one.name || task, digits(one.value), `${digits(one.interval?.low)} to ${digits(one.interval?.high)}`, digits(one.n),
      one.baseline ? `${digits(one.baseline.value)} (${one.baseline.what})` : digits(one.chance),
      one.contamination ? `${one.contamination.exact} exact, ${one.contamination.gram13} of 13 words` : "not looked for"].map(text => el("td", {}, text))))));
}

function forecastOf({ plan = {} }) {
  const { loss, loss_low: low, loss_high: high } = plan;
  return Number.isFinite(low) ? { loss, low, high } : undefined;
}

function facts(told) {
  const { result = {}, energy = {} } = told, forecast = forecastOf(told);
  const rows = [["Forecast of the loss", forecast && `${digits(forecast.loss)} (${digits(forecast.low)} to ${digits(forecast.high)})`],
    ["Outcome", result.validation], ["Energy", energy.joules && `${digits(energy.joules / 3600)} Wh (${digits(energy.low / 3600)} to ${digits(energy.high / 3600)}), ${energy.method}`],
    ["Goodput", result.goodput?.share], ["Tokens", result.tokens], ["Floating-point operations", result.flops]];
  return el("table", {}, ...rows.filter(([, value]) => value !== undefined && value !== null && value !== "")
    .map(([name, value]) => el("tr", {}, el("th", { scope: "row" }, name), el("td", {}, digits(value)))));
}

export function runs(panel) {
  const select = el("select"), place = el("div"), list = new Map();
  let timer = 0;

  async function names() {
    const told = await json("/api/runs"), some = told.data || told, before = select.value;
    list.clear();
    some.forEach(one => list.set(one.name, one));
    select.replaceChildren(...some.map(one => el("option", { value: one.name }, `${one.name}${one.finished ? "" : " (running)"}`)));
    if (list.has(before)) select.value = before;
    if (!some.length) place.replaceChildren(el("p", { class: "quiet" }, "No runs: start the server with --runs FOLDER."));
  }

  async function show() {
    if (!select.value) return;
    const told = await json(`/api/runs/${encodeURIComponent(select.value)}`);
    place.replaceChildren(curve(told.log, forecastOf(told)),
      el("p", { class: "quiet" }, "grey: training; green: validation; dashed: forecast with its interval"),
      el("h2", {}, "Forecast, outcome, energy"), facts(told), el("h2", {}, "Scores"), scores(told.scores || {}), el("h2", {}, "Samples"),
      ...(told.samples || []).slice(-5).reverse().map(one => el("div", { class: "message" }, el("div", { class: "who" }, `step ${one.step}`), el("p", { class: "text" }, one.text))));
  }

  const refresh = () => guarded(async () => { await names(); await show(); });
  select.addEventListener("change", () => guarded(show));
  panel.addEventListener("opened", () => {
    refresh();
    clearInterval(timer);
    timer = setInterval(() => { if (panel.hidden || document.hidden) return; if (!list.get(select.value)?.finished) refresh(); }, EVERY);
  });
  panel.append(el("div", { class: "row" }, field("Run", select), button("Refresh", refresh)), place);
}
