"use strict";
// Charts, drawn one after the other by Vega. Their colours are the page's variables, so that they follow its theme.
(() => {
  const SERIES = [1, 2, 3, 4, 5, 6, 7, 8].map((n) => `var(--series-${n})`);
  const LINE = 14;
  const LETTER = 6.6; // pixels, on the average
  const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
  // The look of a chart of this width in pixels; `longest`: letters of the longest name in the legend;
  // `labelled`: whether names of bars take a part of the width.
  function config(width, longest, labelled) {
    return {
      font: FONT,
      background: null,
      view: { stroke: null },
      axis: {
        labelColor: "var(--muted)",
        titleColor: "var(--muted)",
        domainColor: "var(--line-strong)",
        tickColor: "var(--line-strong)",
        gridColor: "var(--line)",
        labelFontSize: 12,
        titleFontSize: 12,
        titleFontWeight: "normal",
        labelLimit: 400,
        labelOverlap: true,
        labelLineHeight: LINE,
      },
      axisX: { tickCount: Math.max(3, Math.round(width / 90)), titleLimit: width * 0.55 },
      axisY: { titleLimit: 190 },
      axisBand: { grid: false, domain: false, ticks: false, labelColor: "var(--ink)", labelPadding: 6 },
      legend: {
        orient: "top",
        labelColor: "var(--ink)",
        labelFontSize: 12,
        labelLimit: width * 0.5,
        columns: Math.max(1, Math.floor((width * (labelled ? 0.65 : 0.9)) / (34 + 7 * longest))),
        symbolStrokeWidth: 2,
      },
      range: { category: SERIES },
      mark: { color: SERIES[0] },
      bar: { color: SERIES[0], opacity: 0.9 },
      line: { color: SERIES[0], strokeWidth: 2 },
      point: { color: SERIES[0] },
      style: {
        whisker: { color: "var(--ink)", strokeWidth: 1.5 },
        ceiling: { color: "var(--ink)", thickness: 2, opacity: 0.65 },
        band: { opacity: 0.18 },
        reference: { color: "var(--muted)", strokeDash: [4, 4], strokeWidth: 1 },
        bin: { stroke: "var(--surface)", strokeWidth: 0.5 },
        over: { opacity: 0.55 },
      },
    };
  }

  // Words in lines of at most `length` letters; a word longer than that is broken.
  function wrap(text, length) {
    const lines = [""];
    for (const word of text.split(/(?<=[\s/_-])/).flatMap((part) => part.match(new RegExp(`.{1,${length}}`, "gsu")) ?? [])) {
      if (lines[0] && (lines[lines.length - 1] + word).trimEnd().length > length) lines.push("");
      lines[lines.length - 1] += word;
    }
    const said = lines.map((line) => line.trim());
    // The whole is in the tip and in the table of figures.
    return said.length > 3 ? [...said.slice(0, 2), `${said[2].slice(0, length - 1)}…`] : said;
  }

  // The specification with the labels of its bars in lines that leave room for the bars.
  function fitted(spec, width) {
    const layers = spec.layer ?? [spec];
    const labels = layers.map((layer) => layer.encoding?.y).find((y) => y?.type === "nominal")?.scale?.domain;
    if (!labels) return spec;
    const length = Math.max(10, Math.round(Math.min(290, width * 0.4) / LETTER));
    const wrapped = Object.fromEntries(labels.map((label) => [label, wrap(label, length)]));
    const most = Math.max(...Object.values(wrapped).map((lines) => lines.length));
    // Vega sets the first line beside the bar; the block of lines belongs there.
    const up = { signal: `-${LINE / 2} * (wrapped[datum.value].length - 1)` };
    const axis = { labelExpr: "wrapped[datum.value]", encoding: { labels: { update: { dy: up } } } };
    return {
      ...spec,
      height: Math.max(spec.height, labels.length * (most * LINE + 6)),
      params: [...(spec.params ?? []), { name: "wrapped", value: wrapped }],
      layer: layers.map((layer) => ({ ...layer, encoding: { ...layer.encoding, y: { ...layer.encoding.y, axis } } })),
    };
  }

  function longestOfLegend(spec) {
    const named = (spec.layer ?? [spec]).map((layer) => layer.encoding?.color?.scale?.domain).find(Array.isArray) ?? [];
    return Math.max(1, ...named.map((name) => name.length));
  }

  // The tip of a point: its fields, and the picture that it names.
  function tip(images) {
    return (_handler, event, item, value) => {
      if (value === null || value === undefined || value === "") return Page.hideTip();
      const parts = [];
      const datum = item?.datum?.datum ?? item?.datum;
      const address = images && datum?.[images] ? Page.picture(datum[images]) : null;
      if (address) {
        const image = Page.element("img");
        image.alt = "";
        image.src = address;
        parts.push(image);
      }
      const rows = Page.element("dl");
      for (const [label, text] of Object.entries(value)) {
        if (text === null || text === undefined || text === "" || text === "null" || text === "undefined") continue;
        const pair = Page.element("div");
        pair.append(Page.element("dt", "", label), Page.element("dd", "", String(text)));
        rows.append(pair);
      }
      parts.push(rows);
      Page.showTip(parts, event.clientX, event.clientY);
    };
  }

  async function draw(place) {
    const { spec, images } = Page.data.charts[Number(place.dataset.chart)];
    const width = place.clientWidth;
    const shown = fitted(spec, width);
    drawn.get(place)?.finalize();
    const result = await vegaEmbed(place, shown, {
      actions: false,
      ast: true, // expressions are interpreted: the page's policy forbids to compile them
      config: config(width, longestOfLegend(spec), shown !== spec),
      defaultStyle: false,
      renderer: "svg",
      tooltip: tip(images),
    });
    drawn.set(place, result);
    place.dataset.drawn = String(width);
    if (place.nextElementSibling?.className !== "hint" && spec.params?.some((param) => param.bind === "scales")) {
      const hint = "Drag to move, Ctrl and wheel to zoom, double click to return.";
      place.after(Page.element("p", "hint", spec.params.length > 1 ? `${hint} Click the legend to see one alone.` : hint));
    }
  }

  const drawn = new Map();
  const places = [...document.querySelectorAll("[data-chart]")];
  // Vega follows the width by itself, but labels and legends are laid out for the width at the time of drawing.
  const stale = (place) => Math.abs(place.clientWidth / Number(place.dataset.drawn) - 1) > 0.2;
  async function drawAll() {
    for (const place of places) {
      if (place.dataset.drawn && !stale(place)) continue;
      await draw(place);
      await new Promise((resolve) => setTimeout(resolve));
    }
    document.documentElement.dataset.charts = "drawn";
  }
  drawAll();
  let soon = 0;
  addEventListener("resize", () => {
    clearTimeout(soon);
    soon = setTimeout(drawAll, 200);
  });
  addEventListener("scroll", Page.hideTip, { passive: true });
})();
