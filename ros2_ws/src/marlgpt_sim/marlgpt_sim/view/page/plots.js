// Curves over the last ten minutes, drawn on small canvases.

const CURVES = [
  ["goals", "Goals per minute", "--accent", 1],
  ["vetoes", "Vetoes per minute", "--veto", 0],
  ["gap", "Smallest separation [m]", "--good", 3],
  ["latency", "Decision, median [ms]", "--warn", 1],
];
const MOST = 600;

export class Plots {
  constructor(root) {
    this.data = { t: [], goals: [], vetoes: [], gap: [], latency: [] };
    this.curves = CURVES.map(([key, title, colour, digits]) => {
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption");
      const label = document.createElement("span");
      label.textContent = title;
      const value = document.createElement("output");
      const canvas = document.createElement("canvas");
      canvas.setAttribute("role", "img");
      caption.append(label, value);
      figure.append(caption, canvas);
      root.append(figure);
      return { key, title, colour, digits, figure, value, canvas };
    });
    new ResizeObserver(() => this.draw()).observe(root);
  }

  reset(history) {
    for (const key of Object.keys(this.data)) this.data[key] = [...(history[key] ?? [])];
    this.draw();
  }

  add(sample) {
    const times = this.data.t;
    if (times.length && sample.t <= times[times.length - 1]) return;
    for (const key of Object.keys(this.data)) {
      this.data[key].push(sample[key]);
      if (this.data[key].length > MOST) this.data[key].shift();
    }
    this.draw();
  }

  draw() {
    const style = getComputedStyle(document.documentElement);
    for (const curve of this.curves) {
      const values = this.data[curve.key];
      const known = values.filter((v) => v !== null);
      curve.figure.hidden = curve.key !== "goals" && known.length === 0;
      if (curve.figure.hidden) continue;
      const last = values.length ? values[values.length - 1] : null;
      curve.value.textContent = last === null ? "–" : last.toFixed(curve.digits);
      curve.canvas.setAttribute("aria-label", `${curve.title}, now ${curve.value.textContent}`);
      this.curve(curve, values, known, style);
    }
  }

  curve({ canvas, colour, digits }, values, known, style) {
    const ratio = devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width) return;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    const pen = canvas.getContext("2d");
    pen.scale(ratio, ratio);
    pen.strokeStyle = style.getPropertyValue("--edge");
    pen.strokeRect(0.5, 0.5, width - 1, height - 1);
    if (!known.length) return;
    const top = Math.max(...known) * 1.1 || 1, low = Math.min(0, ...known), t = this.data.t;
    const span = Math.max(60, t[t.length - 1] - t[0]);
    const x = (k) => width - ((t[t.length - 1] - t[k]) / span) * width;
    const y = (v) => height - 3 - ((v - low) / (top - low)) * (height - 6);
    pen.strokeStyle = style.getPropertyValue(colour);
    pen.lineWidth = 1.6;
    pen.beginPath();
    let down = false;
    values.forEach((v, k) => {
      if (v === null) down = false;
      else {
        pen[down ? "lineTo" : "moveTo"](x(k), y(v));
        down = true;
      }
    });
    pen.stroke();
    pen.fillStyle = style.getPropertyValue("--soft");
    pen.strokeStyle = style.getPropertyValue("--panel"); // a rim, readable on the curve
    pen.lineWidth = 3;
    pen.lineJoin = "round";
    pen.font = "11px system-ui, sans-serif";
    const minutes = (t[t.length - 1] - t[0]) / 60;
    const label = minutes >= 1 ? `last ${minutes.toFixed(0)} min` : `last ${(minutes * 60).toFixed(0)} s`;
    for (const [text, at] of [[top.toFixed(digits), 12], [label, height - 5]]) {
      pen.strokeText(text, 4, at);
      pen.fillText(text, 4, at);
    }
  }
}
