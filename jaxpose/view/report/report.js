"use strict";
(() => {
  const [form, grid, shown] = ["filter", "cases", "shown"].map((id) => document.getElementById(id));
  const cards = Array.from(grid.children), fields = ["q", "min", "max", "kind", "size", "occlusion", "sort"];
  const value = (card, key) => card.dataset[key] === "" ? NaN : Number(card.dataset[key]);
  const orders = {best: ["oks", -1], score: ["score", -1], epe: ["epe", -1], small: ["px", 1], large: ["px", -1]};

  function passes(card, f) {
    const words = f.q.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.every((word) => card.dataset.q.includes(word))) return false;
    for (const key of ["kind", "size", "occlusion"]) if (f[key] !== "" && card.dataset[key] !== f[key]) return false;
    const oks = value(card, "oks");
    if (f.min !== "" && !(oks >= Number(f.min))) return false;
    if (f.max !== "" && !(oks <= Number(f.max))) return false;
    return true;
  }

  function apply() {
    const f = Object.fromEntries(fields.map((name) => [name, form.elements[name].value]));
    let count = 0;
    for (const card of cards) { card.hidden = !passes(card, f); count += card.hidden ? 0 : 1; }
    const order = Object.hasOwn(orders, f.sort) ? orders[f.sort] : null;
    const rank = (card) => {
      const number = order[1] * value(card, order[0]);
      return Number.isNaN(number) ? Infinity : number;
    };
    grid.append(...(order ? cards.slice().sort((a, b) => rank(a) - rank(b) || 0) : cards));
    shown.textContent = count + " of " + cards.length + " cases";
    return f;
  }

  function fromAddress() {
    const given = new URLSearchParams(location.hash.slice(1));
    for (const name of fields) form.elements[name].value = given.get(name) ?? "";
    for (const name of ["kind", "size", "occlusion", "sort"]) {
      if (form.elements[name].selectedIndex < 0) form.elements[name].value = "";  // not one of the choices
    }
    apply();
  }

  function toAddress() {
    const f = apply();
    const kept = new URLSearchParams(Object.entries(f).filter(([, text]) => text !== ""));
    try { history.replaceState(null, "", "#" + kept); } catch { /* an embedded page has no address of its own */ }
  }

  form.addEventListener("input", toAddress);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(toAddress));
  addEventListener("hashchange", fromAddress);
  form.hidden = false;
  fromAddress();
})();
