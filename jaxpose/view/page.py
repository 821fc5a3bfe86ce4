"""The frame of a page that fetches nothing: its style, light and dark, its one script, and the policy that holds it to that."""

from __future__ import annotations

import base64
import hashlib
import html
from typing import Any

__all__ = ["escaped", "page"]


def escaped(value: Any) -> str:
    """Text for an element, or for an attribute in double quotes, whatever it holds.

    >>> escaped('<b> "x" \\x00')
    '&lt;b&gt; &quot;x&quot; \ufffd'
    """
    return html.escape("".join(c if c.isprintable() else "\ufffd" for c in str(value)), quote=True)


def page(title: str, body: str) -> str:
    """A whole document.

    The Content-Security-Policy allows pictures within the page, its own style and the script whose hash it states.

    Args:
        title: text.
        body: of the page: elements, with every name in them `escaped`.

    >>> "script-src 'sha256-" in page("<a>", "") and "<a>" not in page("<a>", "")
    True
    """
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escaped(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<main>
{body}
</main>
<footer>Written by <code>jaxpose view report</code>. The file holds everything that it shows.</footer>
<script>{SCRIPT}</script>
</body>
</html>
"""


STYLE = """
:root {
  --paper: #fbfaf8; --card: #ffffff; --ink: #23262b; --soft: #6a7079; --line: #e3e1dc; --c0: #2f6fb5; --c1: #d9701a;
  --c2: #2a8f3f; --c3: #b0338a; --heat: 0; --warm: 232, 119, 34;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #17191c; --card: #1f2226; --ink: #e4e4e2; --soft: #9aa1ab; --line: #34383e; --c0: #7ab0ea;
    --c1: #f0a055; --c2: #6cc981; --c3: #e389c4; --warm: 240, 140, 60;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
main, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px; }
header { padding: 32px 0 4px; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 36px 0 12px; padding-bottom: 6px; border-bottom: 1px solid var(--line); }
h3 { font-size: 0.95rem; margin: 0 0 6px; }
p { margin: 6px 0; max-width: 75ch; }
header p, small, footer, .ids { color: var(--soft); }
small { font-size: 0.78rem; }
.notice {
  color: var(--ink); background: rgba(var(--warm), 0.14); border-left: 3px solid rgb(var(--warm));
  padding: 8px 12px; overflow-wrap: anywhere;
}
.scores { display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: 10px; margin: 0; }
.score {
  background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px 12px; display: flex;
  flex-direction: column;
}
.score dt { color: var(--soft); font-size: 0.85rem; overflow-wrap: anywhere; }
.score dd { margin: 0; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.score small { line-height: 1.3; }
.charts {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 330px), 1fr)); gap: 16px;
  max-width: 1180px;
}
.charts svg {
  width: 100%; max-width: 520px; height: auto; background: var(--card); border: 1px solid var(--line);
  border-radius: 8px;
}
svg text { fill: var(--soft); font: 11px system-ui, sans-serif; }
svg .title { fill: var(--ink); font-size: 12.5px; font-weight: 600; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .diagonal { stroke: var(--soft); stroke-dasharray: 4 4; }
svg polyline { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .s0 { stroke: var(--c0); }
svg .s1 { stroke: var(--c1); }
svg .s2 { stroke: var(--c2); }
svg .s3 { stroke: var(--c3); }
svg .f0 { fill: var(--c0); }
svg .f1 { fill: var(--c1); }
svg .f2 { fill: var(--c2); }
svg .f3 { fill: var(--c3); }
.tables { display: flex; flex-wrap: wrap; gap: 28px 40px; align-items: flex-start; }
.stack { display: flex; flex-direction: column; gap: 28px; max-width: 100%; }
.table { max-width: 100%; overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.86rem; font-variant-numeric: tabular-nums; }
th, td { padding: 3px 10px 3px 0; text-align: right; border-bottom: 1px solid var(--line); }
tbody th, thead th:first-child { text-align: left; font-weight: 500; }
thead th { color: var(--soft); font-weight: 500; vertical-align: bottom; }
tbody th { max-width: 220px; overflow-wrap: anywhere; }
td.bar { width: 110px; padding-right: 12px; }
td.bar span { display: block; height: 9px; border-radius: 2px; background: var(--c0); opacity: 0.8; }
td.heat { background: rgba(var(--warm), calc(var(--heat) * 0.45)); padding: 3px 10px; }
td.heat small { display: block; line-height: 1.1; }
td.none { color: var(--soft); }
#filter {
  display: flex; flex-wrap: wrap; gap: 8px 14px; align-items: end; background: var(--card);
  border: 1px solid var(--line); border-radius: 8px; padding: 10px 12px; margin: 12px 0; position: sticky; top: 6px;
  z-index: 1;
}
#filter[hidden] { display: none; }
#filter label { display: flex; flex-direction: column; font-size: 0.78rem; color: var(--soft); }
#filter .wide { flex: 1 1 160px; }
input, select, button {
  font: inherit; font-size: 0.88rem; color: var(--ink); background: var(--paper); border: 1px solid var(--line);
  border-radius: 6px; padding: 4px 8px; min-width: 0;
}
input[type=number] { width: 74px; }
output { font-size: 0.88rem; padding: 5px 0; font-variant-numeric: tabular-nums; }
#cases { display: grid; grid-template-columns: repeat(auto-fill, minmax(200px, 1fr)); gap: 14px; }
.case { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: 8px; overflow: hidden; }
.case[hidden] { display: none; }
.case img { display: block; width: 100%; height: auto; }
figcaption { padding: 8px 10px; font-size: 0.82rem; line-height: 1.45; overflow-wrap: anywhere; }
figcaption b { font-size: 0.95rem; }
figcaption b + span { float: right; color: var(--soft); }
.ids { font-size: 0.76rem; }
.missed b { color: var(--c2); }
.unmatched b { color: var(--c1); }
.gone { color: rgb(var(--warm)); }
details { margin-top: 4px; color: var(--soft); }
summary { cursor: pointer; }
details table { font-size: 0.76rem; width: 100%; }
.key { display: inline-block; width: 14px; height: 4px; border-radius: 2px; margin: 0 6px 3px 0; }
p .key + .key, p .key:not(:first-child) { margin-left: 12px; }
.key.truth { background: rgb(66, 201, 92); }
.key.found { background: rgb(255, 146, 43); }
.key.error { background: rgb(236, 72, 153); }
footer { margin-top: 48px; padding-bottom: 32px; font-size: 0.82rem; }
@media (max-width: 620px) {
  main, footer { padding: 0 12px; }
  #cases { grid-template-columns: repeat(2, 1fr); gap: 8px; }
  #filter { position: static; }
  figcaption b + span { float: none; }
  header { padding-top: 18px; }
  .score dd { font-size: 1.15rem; }
  .scores { grid-template-columns: repeat(2, 1fr); }
}
"""

SCRIPT = """
"use strict";
(() => {
  const [form, grid, shown] = ["filter", "cases", "shown"].map((id) => document.getElementById(id));
  const cards = Array.from(grid.children), fields = ["q", "min", "max", "kind", "size", "occlusion", "sort"];
  const value = (card, key) => card.dataset[key] === "" ? NaN : Number(card.dataset[key]);
  const orders = {best: ["oks", -1], score: ["score", -1], epe: ["epe", -1], small: ["px", 1], large: ["px", -1]};

  function passes(card, f) {
    const words = f.q.toLowerCase().split(/\\s+/).filter(Boolean);
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
"""
