// Unpacks plotly and draws the charts as they come near the screen. Nothing is fetched: everything lies in this page.
"use strict";
(() => {
  const text = (id) => document.getElementById(id).textContent;
  const charts = [...document.querySelectorAll(".chart")];
  const specs = JSON.parse(text("specs"));
  const words = JSON.parse(text("texts"));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const state = { drawn: 0, failed: 0, total: charts.length };
  document.documentElement.dataset.charts = "waiting";

  const bytes = (id) =>
    Uint8Array.fromBase64 // newer browsers: ten times faster
      ? Uint8Array.fromBase64(text(id))
      : Uint8Array.from(atob(text(id)), (letter) => letter.charCodeAt(0));
  const unpack = (id) =>
    new Response(new Blob([bytes(id)]).stream().pipeThrough(new DecompressionStream("gzip"))).text();

  // ---- colours: tokens in the specifications become the theme's colours
  const themed = (value, style) => {
    if (typeof value === "string") return value.startsWith("@") ? colour(value.slice(1), style) : value;
    if (Array.isArray(value)) return value.map((each) => themed(each, style));
    if (value && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, themed(each, style)]));
    return value;
  };
  const ALIASES = { grid: "line", axis: "muted" };
  const colour = (token, style) => {
    const [name, alpha] = token.split("/"); // "@fp32/80": the colour with an alpha in hexadecimal
    return style.getPropertyValue("--" + (ALIASES[name] || name)).trim() + (alpha || "");
  };
  const config = { displayModeBar: false, responsive: true, scrollZoom: false, doubleClick: false };

  const draw = async (element) => {
    const spec = specs[Number(element.dataset.spec)];
    const style = getComputedStyle(document.documentElement);
    const { data, layout } = themed({ data: spec.data, layout: spec.layout }, style);
    layout.height = spec.height;
    if (spec.room) layout.xaxis.range = [spec.room.low, makeRoom(spec.room, element.clientWidth)];
    try {
      await Plotly.react(element, data, layout, config);
      if (!element.dataset.drawn) {
        state.drawn += 1;
        makeScalable(element);
        element.on("plotly_afterplot", () => makeScalable(element));
      }
      element.dataset.drawn = "yes";
    } catch (error) {
      state.failed += 1;
      element.textContent = words.failed;
      console.error(error);
    }
    element.querySelectorAll(".waiting").forEach((each) => each.remove());
    if (state.drawn + state.failed === state.total)
      document.documentElement.dataset.charts = state.failed ? "failed" : "drawn";
  };

  // the axis ends where the longest text behind a bar still fits: on a phone that takes more of the width
  const makeRoom = ({ low, high, text_px: textPx }, width) => {
    const plot = Math.max(160, width - 80);
    return low + ((high - low) * plot) / Math.max(plot - textPx, plot / 4);
  };

  // paper has another width than the screen: with a view box the style sheet can scale what was drawn
  const makeScalable = (element) => element.querySelectorAll("svg.main-svg").forEach((svg) =>
    svg.setAttribute("viewBox", `0 0 ${parseFloat(svg.getAttribute("width"))} ${parseFloat(svg.getAttribute("height"))}`));

  const drawRest = async () => {
    for (const element of charts) {
      if (element.dataset.drawn) continue;
      await draw(element);
      await new Promise((resolve) => setTimeout(resolve)); // lets the reader scroll while the rest is drawn
    }
  };

  const start = async () => {
    const script = document.createElement("script");
    script.textContent = await unpack("plotly");
    document.head.append(script);
    if (typeof Plotly === "undefined") throw new Error("plotly did not start");
    const seen = new IntersectionObserver(
      (entries) => entries.forEach((entry) => {
        if (!entry.isIntersecting) return;
        seen.unobserve(entry.target);
        if (!entry.target.dataset.drawn) draw(entry.target);
      }),
      { rootMargin: "300px" },
    );
    charts.forEach((element) => seen.observe(element));
    setTimeout(drawRest, 50);
    const redraw = () => charts.filter((element) => element.dataset.drawn).forEach(draw);
    dark.addEventListener("change", redraw);
    let waiting;
    addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(redraw, 200); });
    matchMedia("print").addEventListener("change", redraw);
  };

  const giveUp = (error) => {
    document.documentElement.dataset.charts = "failed";
    document.getElementById("fallback").hidden = false;
    charts.forEach((element) => (element.textContent = words.none));
    console.error(error);
  };

  // ---- table: a click or Enter on a heading sorts
  const sortBy = (header) => {
    const body = header.closest("table").tBodies[0];
    const column = header.cellIndex;
    const ascending = header.getAttribute("aria-sort") !== "ascending";
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
    const compare = (a, b) => {
      const [x, y] = [value(a), value(b)];
      if (x === "" || y === "") return (x === "") - (y === ""); // what has no value stays at the end
      const order = isNaN(x) || isNaN(y) ? x.localeCompare(y, document.documentElement.lang) : x - y;
      return ascending ? order : -order;
    };
    [...body.rows].sort(compare).forEach((row) => body.append(row));
    header.parentNode.querySelectorAll("th").forEach((each) => each.removeAttribute("aria-sort"));
    header.setAttribute("aria-sort", ascending ? "ascending" : "descending");
  };
  document.querySelectorAll("thead button").forEach((button) =>
    button.addEventListener("click", () => sortBy(button.closest("th"))));

  // ---- download: the records as they are stored
  document.getElementById("download").addEventListener("click", async () => {
    const packed = typeof DecompressionStream === "undefined";
    const content = packed ? bytes("records") : await unpack("records");
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([content], { type: packed ? "application/gzip" : "application/json" }));
    link.download = words.records + (packed ? ".json.gz" : ".json");
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });

  if (typeof DecompressionStream === "undefined") giveUp(new Error("no DecompressionStream"));
  else start().catch(giveUp);
})();
