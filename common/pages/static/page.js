"use strict";
// What all parts share: the data, elements made of text, pictures, the tip, and the page's own controls.
const Page = (() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  let images = null;

  // An element with a class and a text. Text is never read as HTML: dir=auto lets it run as its script does.
  function element(tag, name = "", text = null) {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== null) {
      made.textContent = text;
      made.dir = "auto";
    }
    return made;
  }

  function has(key) {
    images ??= new Map(Object.entries(JSON.parse(document.getElementById("images").textContent)));
    return images.has(key);
  }
  // A picture by its key, as an address; null where the page has none.
  function picture(key) {
    return has(key) ? `data:image/webp;base64,${images.get(key)}` : null;
  }

  const tip = document.getElementById("tip");
  // Show elements near a point of the window, wholly inside it.
  function showTip(parts, x, y) {
    tip.replaceChildren(...parts);
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const right = x + 14 + box.width > innerWidth - 8 ? Math.max(8, x - 14 - box.width) : x + 14;
    const below = y + 14 + box.height > innerHeight - 8 ? Math.max(8, y - 14 - box.height) : y + 14;
    tip.style.left = `${right}px`;
    tip.style.top = `${below}px`;
  }
  function hideTip() {
    tip.hidden = true;
  }

  const dialog = document.getElementById("picture");
  // Open a picture larger.
  function enlarge(key, caption) {
    const shown = dialog.querySelector("img");
    shown.onload = () => {
      shown.width = 3 * shown.naturalWidth; // a thumbnail; larger it would only be blurred
    };
    shown.src = picture(key);
    shown.alt = caption;
    const words = dialog.querySelector("p");
    words.textContent = caption;
    words.dir = "auto";
    dialog.showModal();
  }
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });

  const grouped = new Intl.NumberFormat("en");
  const byText = new Intl.Collator("en", { numeric: true });
  return { data, element, has, picture, showTip, hideTip, enlarge, number: (n) => grouped.format(n), compare: byText.compare };
})();

// Colours: as the system has them, light or dark.
(() => {
  const group = document.querySelector(".themes");
  const buttons = [...group.querySelectorAll("button")];
  const root = document.documentElement;
  function mark() {
    for (const button of buttons) {
      button.setAttribute("aria-pressed", String(button.dataset.themeChoice === (root.dataset.theme ?? "auto")));
    }
  }
  for (const button of buttons) {
    button.addEventListener("click", () => {
      const choice = button.dataset.themeChoice;
      if (choice === "auto") delete root.dataset.theme;
      else root.dataset.theme = choice;
      try {
        localStorage.setItem("theme", choice);
      } catch {
        // It holds until the page is closed.
      }
      mark();
    });
  }
  group.hidden = false;
  mark();
})();

// Contents: a menu on narrow windows; the part in view is marked.
(() => {
  const nav = document.querySelector(".contents");
  const button = nav.querySelector(".menu");
  const links = new Map([...nav.querySelectorAll("a")].map((link) => [link.hash.slice(1), link]));
  function open(whether) {
    button.setAttribute("aria-expanded", String(whether));
    nav.classList.toggle("open", whether);
  }
  button.hidden = false;
  button.addEventListener("click", () => open(!nav.classList.contains("open")));
  nav.addEventListener("click", (event) => {
    if (event.target.closest("a")) open(false);
  });
  nav.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      open(false);
      button.focus();
    }
  });
  const seen = new Set();
  const watch = new IntersectionObserver(
    (entries) => {
      for (const entry of entries) seen[entry.isIntersecting ? "add" : "delete"](entry.target.id);
      const first = [...links.keys()].find((key) => seen.has(key));
      for (const [key, link] of links) {
        if (key === first) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
    },
    { rootMargin: "-15% 0px -70% 0px" },
  );
  for (const section of document.querySelectorAll("main > section")) watch.observe(section);
})();
