"use strict";
(() => {
  const style = getComputedStyle(document.documentElement);
  const color = (name) => style.getPropertyValue(name).trim();
  const sides = [color("--left"), color("--right"), color("--middle")], truthColor = color("--truth");

  // Rows of the rotation by pitch about the horizontal axis after yaw about the vertical one.
  function rotation(yaw, pitch) {
    const [c, s, d, t] = [Math.cos(yaw), Math.sin(yaw), Math.cos(pitch), Math.sin(pitch)];
    return [[c, 0, s], [s * t, d, -c * t], [-s * d, t, c * d]];
  }

  const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
  // Six numbers are the upper triangle of a symmetric matrix, row by row.
  const form = (m, a, b) => m[0] * a[0] * b[0] + m[3] * a[1] * b[1] + m[5] * a[2] * b[2] + m[1] * (a[0] * b[1] + a[1] * b[0])
    + m[2] * (a[0] * b[2] + a[2] * b[0]) + m[4] * (a[1] * b[2] + a[2] * b[1]);

  function scene(box) {
    const canvas = box.querySelector("canvas"), data = JSON.parse(box.dataset.scene), pen = canvas.getContext("2d");
    const [list, truth, regions] = ["pose", "truth", "regions"].map((name) => box.querySelector("[name=" + name + "]"));
    const start = {yaw: 0.5, pitch: -0.15, zoom: 1};
    let view = {...start}, last = null;

    function frame(points) {
      const seen = points.filter((p) => p !== null);
      const low = [0, 1, 2].map((i) => Math.min(...seen.map((p) => p[i])));
      const high = [0, 1, 2].map((i) => Math.max(...seen.map((p) => p[i])));
      const middle = low.map((v, i) => (v + high[i]) / 2);
      return [middle, Math.max(...seen.map((p) => Math.hypot(...p.map((v, i) => v - middle[i]))), 1e-9)];
    }

    function draw() {
      const ratio = devicePixelRatio || 1, w = canvas.clientWidth, h = canvas.clientHeight;
      canvas.width = w * ratio; canvas.height = h * ratio;
      pen.setTransform(ratio, 0, 0, ratio, 0, 0);
      pen.clearRect(0, 0, w, h);
      const pose = data.poses[list.selectedIndex];
      const all = pose.xyz.concat(pose.truth || []);
      if (!all.some((p) => p !== null)) return;
      const [middle, radius] = frame(all), turn = rotation(view.yaw, view.pitch);
      const scale = 0.44 * Math.min(w, h) / radius * view.zoom;
      const place = (p) => {
        const q = p.map((v, i) => v - middle[i]);
        return [w / 2 + scale * dot(turn[0], q), h / 2 + scale * dot(turn[1], q), dot(turn[2], q)];
      };
      if (regions && regions.checked && pose.ellipsoids) pose.ellipsoids.forEach((m, k) => {
        if (m === null || pose.xyz[k] === null) return;
        const [x, y] = place(pose.xyz[k]);
        const [a, b, c] = [form(m, turn[0], turn[0]), form(m, turn[0], turn[1]), form(m, turn[1], turn[1])];
        const mean = (a + c) / 2, half = Math.hypot((a - c) / 2, b), axis = (v) => scale * Math.sqrt(Math.max(v, 0));
        pen.beginPath();
        pen.ellipse(x, y, axis(mean + half), axis(mean - half), Math.atan2(2 * b, a - c) / 2, 0, 2 * Math.PI);
        pen.globalAlpha = 0.16; pen.fillStyle = sides[data.side[k]]; pen.fill();
        pen.globalAlpha = 0.5; pen.lineWidth = 1; pen.strokeStyle = sides[data.side[k]]; pen.stroke();
        pen.globalAlpha = 1;
      });
      const limbs = [];
      const add = (points, paint, width) => data.limbs.forEach(([a, b]) => {
        if (points[a] === null || points[b] === null) return;
        const [p, q] = [place(points[a]), place(points[b])];
        limbs.push([(p[2] + q[2]) / 2, p, q, paint(a, b), width]);
      });
      if (pose.truth && truth && truth.checked) add(pose.truth, () => truthColor, 2);
      // A limb belongs to a side if one of its ends does.
      add(pose.xyz, (a, b) => sides[Math.min(data.side[a], data.side[b])], 4);
      limbs.sort((a, b) => b[0] - a[0]);  // the farthest first
      pen.lineCap = "round";
      for (const [, p, q, paint, width] of limbs) {
        pen.strokeStyle = paint; pen.lineWidth = width;
        pen.beginPath(); pen.moveTo(p[0], p[1]); pen.lineTo(q[0], q[1]); pen.stroke();
      }
      pose.xyz.forEach((p, k) => {
        if (p === null) return;
        const [x, y] = place(p);
        pen.fillStyle = sides[data.side[k]];
        pen.beginPath(); pen.arc(x, y, 3.5, 0, 2 * Math.PI); pen.fill();
      });
      const length = [1, 2, 5].flatMap((d) => [-4, -3, -2, -1, 0, 1, 2, 3, 4].map((e) => d * 10 ** e))
        .filter((v) => v * scale <= 0.3 * w).reduce((a, b) => Math.max(a, b), 1e-4);
      pen.strokeStyle = pen.fillStyle = color("--soft"); pen.lineWidth = 2;
      pen.beginPath(); pen.moveTo(12, h - 12); pen.lineTo(12 + length * scale, h - 12); pen.stroke();
      pen.font = "12px system-ui, sans-serif";
      pen.fillText(length + " " + data.unit, 12, h - 18);
    }

    function turn(dx, dy) {
      view.yaw += dx; view.pitch = Math.max(-Math.PI / 2, Math.min(Math.PI / 2, view.pitch + dy));
      draw();
    }

    canvas.addEventListener("pointerdown", (e) => { last = [e.clientX, e.clientY]; canvas.setPointerCapture(e.pointerId); });
    canvas.addEventListener("pointermove", (e) => {
      if (last === null) return;
      turn((e.clientX - last[0]) * 0.01, -(e.clientY - last[1]) * 0.01);
      last = [e.clientX, e.clientY];
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, () => { last = null; });
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      view.zoom = Math.max(0.2, Math.min(20, view.zoom * Math.exp(-e.deltaY * 0.001)));
      draw();
    }, {passive: false});
    canvas.addEventListener("dblclick", () => { view = {...start}; draw(); });
    canvas.addEventListener("keydown", (e) => {
      const step = {ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, 0.1], ArrowDown: [0, -0.1]}[e.key];
      if (step) { e.preventDefault(); turn(...step); }
    });
    box.addEventListener("input", draw);
    addEventListener("resize", draw);
    draw();
  }

  for (const box of document.querySelectorAll("[data-scene]")) scene(box);
})();
