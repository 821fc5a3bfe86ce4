"use strict";
(() => {
  const [form, grid] = ["shown", "scans"].map((id) => document.getElementById(id));
  if (!form || !grid) return;
  const figures = Array.from(grid.children), layers = ["lines", "bands", "labels"];

  function apply() {
    for (const name of layers) {
      const box = form.elements[name];
      if (box) grid.classList.toggle("without-" + name, !box.checked);
    }
    const order = form.elements.order.value;
    const rank = (figure) => (order === "file" ? 1 : order === "best" ? -1 : 1) *
      Number(order === "file" ? figure.dataset.order : figure.dataset.place);
    grid.append(...figures.slice().sort((a, b) => rank(a) - rank(b)));
  }

  form.addEventListener("input", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.hidden = false;
  apply();
})();
