"use strict";
// Galleries: cards are drawn in batches as one scrolls, and their pictures set as they come near the window.
// A batch is what the browser leaves out of its layout while it is out of sight, so that thousands of cards cost little.
(() => {
  const BATCH = 8;
  const AHEAD = "1200px 0px";
  const element = Page.element;

  const pictures = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) {
        if (!entry.isIntersecting) continue;
        pictures.unobserve(entry.target);
        entry.target.querySelectorAll("img").forEach(load);
      }
    },
    { rootMargin: "800px 0px" },
  );
  function load(image) {
    image.src ||= Page.picture(image.dataset.key);
  }
  addEventListener("beforeprint", () => document.querySelectorAll("img[data-key]").forEach(load));

  // Text in pieces that are unmarked and marked by turns; or plain.
  function fill(target, text) {
    target.dir = "auto";
    if (typeof text === "string") target.textContent = text;
    else target.append(...text.map((piece, index) => (index % 2 ? element("mark", "", piece) : piece)));
    return target;
  }

  function tile(source) {
    const made = element("li", `tile ${source.tone ?? ""}`);
    const there = Boolean(source.image) && Page.has(source.image);
    const caption = source.caption ?? "";
    const frame = element(there ? "button" : "div", "frame-box");
    if (there) {
      frame.type = "button";
      frame.setAttribute("aria-label", `Enlarge: ${caption}`);
      frame.addEventListener("click", () => Page.enlarge(source.image, caption));
      const image = element("img");
      image.alt = "";
      image.decoding = "async";
      image.dataset.key = source.image;
      frame.append(image);
    } else {
      frame.classList.add("without");
      frame.append(element("span", "", source.image ? "picture left out" : "no picture"));
    }
    if (source.badge) frame.append(element("span", "badge", source.badge));
    if (there || source.badge || !source.text) made.append(frame);
    const known = element("div", "known");
    known.append(element("p", "caption", caption));
    for (const line of source.lines ?? []) known.append(element("p", "line", line));
    made.append(known);
    if (source.text) {
      made.append(fill(element("p", "passage"), source.text));
    }
    return made;
  }

  function card(source) {
    const made = element("article", "card");
    made.append(fill(element("h3"), source.title ?? ""));
    if (source.facts) {
      const facts = element("dl", "card-facts");
      for (const [label, value] of source.facts) {
        const pair = element("div");
        pair.append(element("dt", "", label), element("dd", "", value));
        facts.append(pair);
      }
      made.append(facts);
    }
    for (const strip of source.strips ?? []) {
      const part = element("div", "strip");
      const tiles = element("ul", strip.tiles.some((one) => one.text) ? "tiles worded" : "tiles");
      tiles.append(...strip.tiles.map(tile));
      part.append(element("h4", "", strip.label), tiles);
      made.append(part);
    }
    return made;
  }

  const plain = (text) => (text === undefined ? "" : typeof text === "string" ? text : text.join(""));
  // All that a card says, in lower case: what a search goes through.
  function words(source) {
    const parts = [plain(source.title), source.search ?? "", ...(source.facts ?? []).flat()];
    for (const strip of source.strips ?? []) {
      parts.push(strip.label);
      for (const one of strip.tiles) {
        parts.push(one.caption ?? "", one.badge ?? "", plain(one.text), ...(one.lines ?? []));
      }
    }
    return parts.join("\n").toLowerCase();
  }

  function labelled(label, control, key) {
    const made = element("label", "control");
    made.append(element("span", "", label), control);
    control.dataset[key[0]] = key[1];
    return made;
  }

  function option(value, text) {
    const made = element("option", "", text);
    made.value = value;
    return made;
  }

  function selectFacet(cards, choice) {
    const counts = new Map();
    for (const one of cards) {
      for (const value of new Set(one.facets?.[choice.key] ?? [])) counts.set(value, (counts.get(value) ?? 0) + 1);
    }
    const select = element("select");
    select.append(option("", "all"));
    const values = [...counts.keys()].sort(Page.compare);
    // The values are numbered, for "" is "all", and a value may be anything.
    select.append(...values.map((value, index) => option(String(index + 1), `${value} (${Page.number(counts.get(value))})`)));
    return { select, values };
  }

  function start(root, source) {
    const cards = source.cards;
    const texts = [];
    const id = root.closest("section").id;
    const form = element("form", "controls");
    form.setAttribute("role", "search");
    form.addEventListener("submit", (event) => event.preventDefault());
    const search = element("input");
    search.type = "search";
    search.placeholder = "all words";
    search.autocomplete = "off";
    form.append(labelled("Search", search, ["search", ""]));
    const filters = source.filters.map((choice) => {
      const { select, values } = selectFacet(cards, choice);
      form.append(labelled(choice.label, select, ["filter", choice.key]));
      return { key: choice.key, select, values };
    });
    const order = element("select");
    const turn = element("button", "turn", "reverse");
    if (source.sorts.length) {
      order.append(option("", "as given"), ...source.sorts.map((sort, index) => option(String(index), sort.label)));
      form.append(labelled("Order", order, ["sort", ""]));
      turn.type = "button";
      turn.setAttribute("aria-pressed", "false");
    }
    const reset = element("button", "reset", "reset");
    reset.type = "button";
    const buttons = element("div", "buttons");
    buttons.append(...(source.sorts.length ? [turn, reset] : [reset]));
    form.append(buttons);
    const count = element("p", "count");
    count.setAttribute("aria-live", "polite");
    const list = element("div", "cards");
    const more = element("div", "more");
    root.append(form, count, list, more);
    // Only the page's last gallery goes on by itself as one scrolls: what stands below another must be reached.
    const galleries = document.querySelectorAll(".gallery");
    const endless = root === galleries[galleries.length - 1];
    const step = endless ? BATCH : 2 * BATCH;
    const next = element("button", "next");
    next.type = "button";
    next.hidden = true;
    if (!endless) more.append(next);
    next.addEventListener("click", () => draw());

    let shown = [];
    let drawn = 0;
    function draw() {
      const until = Math.min(drawn + step, shown.length);
      const batch = element("div", "batch");
      for (; drawn < until; drawn++) {
        const made = card(cards[shown[drawn]]);
        made.dataset.card = shown[drawn];
        batch.append(made);
      }
      list.append(batch);
      pictures.observe(batch);
      next.textContent = `show ${Math.min(step, shown.length - drawn)} more`;
      next.hidden = drawn >= shown.length;
    }
    const end = new IntersectionObserver(
      (entries) => {
        if (!entries[entries.length - 1].isIntersecting || drawn >= shown.length) return;
        draw();
        // It reports changes only: watched anew, it tells whether there is still room.
        end.unobserve(more);
        end.observe(more);
      },
      { rootMargin: AHEAD },
    );

    function matching() {
      const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const chosen = filters.filter((filter) => filter.select.value);
      const found = [];
      cards.forEach((one, index) => {
        if (!chosen.every((f) => one.facets?.[f.key]?.includes(f.values[f.select.value - 1]))) return;
        if (wanted.length) texts[index] ??= words(one);
        if (wanted.every((word) => texts[index].includes(word))) found.push(index);
      });
      return found;
    }
    function sorted(found) {
      const down = turn.getAttribute("aria-pressed") === "true";
      if (order.value === "") return down ? found.reverse() : found;
      const { key, descending } = source.sorts[Number(order.value)];
      const sign = descending !== down ? -1 : 1;
      const number = (index) => cards[index].numbers?.[key];
      const there = found.filter((index) => number(index) !== undefined);
      there.sort((a, b) => sign * (number(a) - number(b)) || a - b);
      return there.concat(found.filter((index) => number(index) === undefined));
    }
    function show() {
      shown = sorted(matching());
      drawn = 0;
      list.replaceChildren();
      count.textContent = `shown ${Page.number(shown.length)} of ${Page.number(cards.length)} ${source.noun}`;
      draw();
      if (!endless) return;
      end.unobserve(more);
      end.observe(more);
    }

    // The choice is kept in the address, after the section's anchor: #errors?q=word&domain=News
    function keep() {
      const state = new URLSearchParams();
      if (search.value) state.set("q", search.value);
      for (const filter of filters) {
        if (filter.select.value) state.set(`f.${filter.key}`, filter.values[filter.select.value - 1]);
      }
      if (order.value !== "") state.set("sort", order.value);
      if (turn.getAttribute("aria-pressed") === "true") state.set("turn", "1");
      const text = state.toString();
      try {
        history.replaceState(null, "", text ? `#${id}?${text}` : `#${id}`);
      } catch {
        // A page inside another, as in a notebook, has no address of its own.
      }
    }
    function recall() {
      const [anchor, text] = location.hash.slice(1).split("?");
      if (anchor !== id || !text) return;
      const state = new URLSearchParams(text);
      search.value = state.get("q") ?? "";
      for (const filter of filters) {
        filter.select.value = String(filter.values.indexOf(state.get(`f.${filter.key}`)) + 1 || "");
      }
      const sort = state.get("sort") ?? "";
      order.value = sort in source.sorts ? sort : "";
      turn.setAttribute("aria-pressed", String(state.get("turn") === "1"));
      document.getElementById(id).scrollIntoView();
    }
    function change() {
      keep();
      show();
    }
    form.addEventListener("input", change);
    turn.addEventListener("click", () => {
      turn.setAttribute("aria-pressed", String(turn.getAttribute("aria-pressed") !== "true"));
      change();
    });
    reset.addEventListener("click", () => {
      form.reset();
      turn.setAttribute("aria-pressed", "false");
      change();
    });
    recall();
    show();
  }

  for (const root of document.querySelectorAll("[data-gallery]")) start(root, Page.data.galleries[Number(root.dataset.gallery)]);
})();
