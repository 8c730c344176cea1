"use strict";
// In the head, before anything is drawn: the colours chosen last, where the browser keeps such a thing.
(() => {
  let kept = null;
  try {
    kept = localStorage.getItem("theme");
  } catch {
    // Files from disk may have no storage.
  }
  if (kept === "light" || kept === "dark") document.documentElement.dataset.theme = kept;
  document.documentElement.classList.add("scripted");
})();
