"use strict";
// Tables are sorted by their heads: numbers from the largest, words from A; again turns the order; no value comes last.
(() => {
  function key(row, column) {
    const cell = row.cells[column];
    if ("none" in cell.dataset) return null;
    return "number" in cell.dataset ? Number(cell.dataset.number) : cell.textContent;
  }
  function compare(left, right) {
    const numbers = [left, right].map((value) => typeof value === "number");
    if (numbers[0] && numbers[1]) return left - right;
    if (numbers[0] !== numbers[1]) return numbers[0] ? -1 : 1;
    return Page.compare(left, right);
  }
  function sort(table, column, down) {
    const body = table.tBodies[0];
    const rows = [...body.rows].map((row, index) => ({ row, index, key: key(row, column) }));
    const [there, absent] = [rows.filter((row) => row.key !== null), rows.filter((row) => row.key === null)];
    there.sort((a, b) => (down ? -1 : 1) * compare(a.key, b.key) || a.index - b.index);
    body.append(...there.concat(absent).map((row) => row.row));
  }
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = head.querySelector("button");
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const down = before ? before === "ascending" : head.classList.contains("right");
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        sort(table, column, down);
      });
      const note = button.dataset.note;
      if (!note) return;
      const show = () => {
        const box = button.getBoundingClientRect();
        Page.showTip([Page.element("p", "", note)], box.left, box.bottom - 8);
      };
      button.setAttribute("aria-description", note);
      button.addEventListener("pointerenter", show);
      button.addEventListener("focus", show);
      button.addEventListener("pointerleave", Page.hideTip);
      button.addEventListener("blur", Page.hideTip);
    });
  }
})();
