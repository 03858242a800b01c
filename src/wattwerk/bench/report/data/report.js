// Unpacks plotly and draws the charts: those near the screen first, the others while the browser has nothing else to do,
// and all that are missing before the page is printed. Nothing is fetched: everything lies in this page.
"use strict";
(() => {
  const text = (id) => document.getElementById(id).textContent;
  const charts = [...document.querySelectorAll(".chart")];
  const specs = JSON.parse(text("specs"));
  const words = JSON.parse(text("texts"));
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paper = matchMedia("print");
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
  const config = { displayModeBar: false, scrollZoom: false, doubleClick: false };

  // plotly draws twice where labels turn out to need more room than the margin has, so the margin begins with enough
  const pen = document.createElement("canvas").getContext("2d");
  const roomForLabels = (layout) => {
    pen.font = `${layout.font.size}px ${layout.font.family}`;
    const widths = (layout.yaxis.ticktext || []).map((label) => pen.measureText(label).width);
    return Math.max(layout.margin.l, Math.ceil(Math.max(0, ...widths)) + 12);
  };

  // what a drawing depends on besides its specification: the theme's colours and the width
  const drawn = new Map(); // chart -> the theme and the width it was drawn with
  const theme = () => getComputedStyle(document.documentElement).getPropertyValue("--surface");
  const widthOf = (element) => element.parentNode.clientWidth; // the figure's: it is known without a look into it
  const isStale = (element) => drawn.get(element)?.theme !== theme() || drawn.get(element).width !== widthOf(element);

  const draw = async (element, width = widthOf(element)) => {
    const spec = specs[Number(element.dataset.spec)];
    const style = getComputedStyle(document.documentElement);
    const { data, layout } = themed({ data: spec.data, layout: spec.layout }, style);
    Object.assign(layout, { width, height: spec.height, autosize: false });
    layout.margin.l = roomForLabels(layout);
    if (spec.room) layout.xaxis.range = [spec.room.low, makeRoom(spec.room, width)];
    const isFirst = !drawn.has(element);
    drawn.set(element, { theme: theme(), width });
    if (element.dataset.failed) return;
    try {
      await Plotly.react(element, data, layout, config);
      if (!isFirst) return;
      makeScalable(element);
      element.on("plotly_afterplot", () => makeScalable(element));
      count("drawn");
    } catch (error) {
      element.dataset.failed = "yes";
      element.textContent = words.failed;
      console.error(error);
      if (isFirst) count("failed");
    } finally {
      element.querySelectorAll(".waiting").forEach((each) => each.remove());
    }
  };
  const count = (result) => {
    state[result] += 1;
    if (state.drawn === 1 && result === "drawn") markPainted("first chart");
    if (state.drawn + state.failed < state.total) return;
    markPainted("all charts");
    document.documentElement.dataset.charts = state.failed ? "failed" : "drawn";
  };
  const markPainted = (name) => requestAnimationFrame(() => setTimeout(() => performance.mark(name)));

  // ---- one chart as a picture, with its title and key, or as its values
  const picture = async (spec, form) => {
    const style = getComputedStyle(document.documentElement);
    const { data, layout } = themed({ data: spec.data, layout: structuredClone(spec.layout) }, style);
    const keyed = data.filter((trace) => trace.name && trace.type !== "bar");
    keyed.forEach((trace) => (trace.showlegend = true));
    const hatched = data.some((trace) => [trace.marker?.pattern?.shape ?? ""].flat().some(Boolean));
    const dashed = data.some((trace) => trace.line?.dash === "dash");
    const notes = [hatched && words.hatched, dashed && words.dashed].filter(Boolean).join("; ");
    const width = 900;
    const rows = Math.ceil(keyed.length / 3); // of the key below the chart
    const height = spec.height + 56 + (notes ? 16 : 0) + (keyed.length ? 24 + 22 * rows : 0);
    if (spec.room) layout.xaxis.range = [spec.room.low, makeRoom(spec.room, width)];
    const escape = (text) => text.replace(/[&<>]/g, (letter) => `&#${letter.charCodeAt(0)};`);
    Object.assign(layout, {
      width, height, autosize: false, paper_bgcolor: colour("surface", style), showlegend: keyed.length > 0,
      margin: { l: 12, r: 16, t: notes ? 68 : 52, b: 12 },
      title: {
        text: `<b>${escape(spec.title)}</b>`, x: 0, xref: "container", pad: { l: 14 }, y: 1, yanchor: "top", yref: "container",
        font: { size: 15 }, subtitle: { text: notes, font: { size: 12 } },
      },
      legend: { orientation: "h", x: 0, y: 0, yref: "container", yanchor: "bottom" },
    });
    layout.title.pad.t = 14;
    return Plotly.toImage({ data, layout }, { format: form, width, height, scale: form === "png" ? 2 : 1 });
  };
  const cell = (value) => {
    const told = value === null ? "" : String(value);
    return /[",\n]/.test(told) ? `"${told.replaceAll('"', '""')}"` : told;
  };
  const csv = ({ head, rows }) => [head, ...rows].map((row) => row.map(cell).join(",") + "\n").join("");
  const save = (href, name) => {
    const link = document.createElement("a");
    Object.assign(link, { href, download: name });
    link.click();
    if (href.startsWith("blob:")) setTimeout(() => URL.revokeObjectURL(href), 1000);
  };
  const saveText = (content, type, name) => save(URL.createObjectURL(new Blob([content], { type })), name);
  const download = async (button) => {
    const spec = specs[Number(button.closest("figure").querySelector(".chart").dataset.spec)];
    const form = button.dataset.form;
    if (form === "csv") saveText(csv(spec.table), "text/csv;charset=utf-8", `${spec.file}.csv`);
    else save(await picture(spec, form), `${spec.file}.${form}`);
  };
  document.querySelectorAll(".downloads button").forEach((button) =>
    button.addEventListener("click", () => download(button).catch(console.error)));

  // the address ends in #pictures where wattwerk itself asks for all pictures: it reads them from the page
  const allPictures = async () => {
    for (const spec of specs)
      for (const form of ["svg", "png"]) {
        const element = document.createElement("script");
        element.type = "text/plain";
        element.className = "picture";
        element.dataset.file = `${spec.file}.${form}`;
        element.textContent = await picture(spec, form);
        document.body.append(element);
      }
    document.documentElement.dataset.pictures = "all";
  };

  // the axis ends where the longest text behind a bar still fits: on a phone that takes more of the width
  const makeRoom = ({ low, high, text_px: textPx }, width) => {
    const plot = Math.max(160, width - 80);
    return low + ((high - low) * plot) / Math.max(plot - textPx, plot / 4);
  };

  // paper has another width than the screen: with a view box the style sheet can scale what was drawn
  const makeScalable = (element) => element.querySelectorAll("svg.main-svg").forEach((svg) =>
    svg.setAttribute("viewBox", `0 0 ${parseFloat(svg.getAttribute("width"))} ${parseFloat(svg.getAttribute("height"))}`));

  // ---- when to draw: what is near the screen at once, the rest one by one while the browser is idle
  const near = new Set();
  const frame = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  const idle = () => new Promise((resolve) =>
    window.requestIdleCallback ? requestIdleCallback(resolve, { timeout: 500 }) : setTimeout(resolve, 30));
  let round = 0;
  const drawRest = async () => {
    const mine = ++round; // a later change of size or theme begins again
    const distance = (element) => {
      const { top, bottom } = element.getBoundingClientRect();
      return Math.abs(top + bottom - innerHeight);
    };
    const nearest = [...near].sort((a, b) => distance(a) - distance(b));
    for (const element of [...nearest, ...charts]) {
      if (!isStale(element)) continue;
      await (near.has(element) && !document.hidden ? frame() : idle()); // shows what was drawn, and hears the reader
      if (mine !== round || paper.matches) return;
      if (isStale(element)) await draw(element);
    }
  };

  const start = async () => {
    const script = document.createElement("script");
    script.textContent = await unpack("plotly");
    document.head.append(script);
    if (typeof Plotly === "undefined") throw new Error("plotly did not start");
    if (location.hash === "#pictures") return allPictures();
    const seen = new IntersectionObserver((entries) => {
      entries.forEach(({ target, isIntersecting }) => near[isIntersecting ? "add" : "delete"](target));
      drawRest();
    }, { rootMargin: "600px" });
    charts.forEach((element) => seen.observe(element));
    drawRest();
    dark.addEventListener("change", drawRest);
    let waiting;
    addEventListener("resize", () => { clearTimeout(waiting); waiting = setTimeout(drawRest, 200); });
    // paper waits for nobody: what is missing is drawn at once, and all in the colours of paper; a width stays as it is
    addEventListener("beforeprint", () => charts.filter((element) => !drawn.has(element)).forEach((each) => draw(each)));
    paper.addEventListener("change", () => drawn.forEach((look, element) => {
      if (look.theme !== theme()) draw(element, look.width);
    }));
    addEventListener("afterprint", drawRest);
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
    const type = packed ? "application/gzip" : "application/json";
    saveText(content, type, words.records + (packed ? ".json.gz" : ".json"));
  });

  if (typeof DecompressionStream === "undefined") giveUp(new Error("no DecompressionStream"));
  else start().catch(giveUp);
})();
