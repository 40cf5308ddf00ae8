// The map from above: robots between two frames, the cells they hold, their moves, goals and vetoes; pan and zoom.

export const STATUS = ["no pose", "idle", "waiting", "moving", "stale pose", "stopped", "off the grid", "docking",
  "pose jumped", "removed"];
export const ATTENTION = new Set([0, 4, 5, 6, 8]);
const MARK = { 0: "?", 4: "?", 5: "■", 6: "!", 8: "!" }; // so that colour is not the only sign
const REMOVED = 9;
const VETO_MS = 900;
const JUMP = 2; // m between two frames from which a pose is not interpolated
const TAP = 8; // pixels that a click may move
const EDGE = { left: 12, right: 64, top: 54, bottom: 48 }; // pixels in which buttons and the hint lie on the map

export class Scene {
  constructor(canvas, picked) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d");
    this.picked = picked; // {robot(index), place(x, y), hover(x, y)}
    this.layers = { held: true, moves: true, goals: true, vetoes: true, names: true };
    this.view = { x: 0, y: 0, scale: 40 };
    this.fitted = false;
    this.selected = null; // name
    this.aim = null; // {x, y} where the goal would go
    this.names = [];
    this.radii = [];
    this.vetoAt = [];
    this.pointers = new Map();
    this.colours = {};
    new ResizeObserver(() => this.resize()).observe(canvas);
    this.listen();
  }

  // Data ------------------------------------------------------------------------------------------------

  async setMap(message) {
    const image = await createImageBitmap(message.png);
    this.map = { ...message, image };
    this.paint();
    if (!this.fitted) this.fit();
  }

  setGrid(grid) {
    const bytes = Uint8Array.from(atob(grid.free), (c) => c.charCodeAt(0));
    this.grid = { ...grid, bits: bytes };
  }

  setRoster(roster) {
    this.roster = roster.id;
    this.names = roster.names;
    this.radii = roster.radii;
    this.before = this.start = this.now = null;
    this.vetoAt = [];
  }

  setFrame(frame) {
    if (frame.roster !== this.roster || !frame.robots) return;
    if (this.now && frame.t === this.now.t && frame.step === this.now.step) return;
    const at = performance.now(), old = this.now;
    if (old) {
      frame.robots.vetoes.forEach((count, i) => {
        if (count > old.robots.vetoes[i]) this.vetoAt[i] = at;
      });
    }
    frame.at = at;
    // A new frame begins where the drawn picture is, so that nothing jumps when frames come unevenly.
    this.before = old ? { x: [], y: [], yaw: [] } : null;
    if (old) {
      this.names.forEach((_, i) => {
        const pose = this.pose(i, at, old, this.start);
        for (const key of ["x", "y", "yaw"]) this.before[key].push(pose ? pose[key] : null);
      });
      this.period = Math.min(600, Math.max(60, 0.7 * (this.period ?? 100) + 0.3 * (at - old.at)));
    }
    this.start = this.before;
    this.now = frame;
  }

  pose(i, at = performance.now(), frame = this.now, start = this.start) {
    if (!frame || frame.robots.x[i] === null || frame.robots.x[i] === undefined) return null;
    const end = { x: frame.robots.x[i], y: frame.robots.y[i], yaw: frame.robots.yaw[i] };
    if (!start || start.x[i] === null || Math.hypot(end.x - start.x[i], end.y - start.y[i]) > JUMP) return end;
    const part = Math.min(1, (at - frame.at) / (this.period ?? 100));
    const turn = Math.atan2(Math.sin(end.yaw - start.yaw[i]), Math.cos(end.yaw - start.yaw[i]));
    return {
      x: start.x[i] + (end.x - start.x[i]) * part, y: start.y[i] + (end.y - start.y[i]) * part,
      yaw: start.yaw[i] + turn * part,
    };
  }

  radius(i) { return this.radii[i] ?? (this.grid ? this.grid.cell / 3 : 0.2); }

  // Places ----------------------------------------------------------------------------------------------

  toScreen(x, y) {
    const { view } = this;
    return [(x - view.x) * view.scale + this.width / 2, (view.y - y) * view.scale + this.height / 2];
  }

  toWorld(px, py) {
    const { view } = this;
    return [(px - this.width / 2) / view.scale + view.x, view.y - (py - this.height / 2) / view.scale];
  }

  centre(row, col) {
    const { cell, origin: [x, y, yaw] } = this.grid;
    const east = col * cell, north = -row * cell, c = Math.cos(yaw), s = Math.sin(yaw);
    return [x + c * east - s * north, y + s * east + c * north];
  }

  cellAt(x, y) {
    if (!this.grid) return null;
    const { cell, rows, cols, bits, origin: [x0, y0, yaw] } = this.grid;
    const c = Math.cos(yaw), s = Math.sin(yaw), dx = x - x0, dy = y - y0;
    const col = Math.round((c * dx + s * dy) / cell), row = Math.round((s * dx - c * dy) / cell);
    if (row < 0 || col < 0 || row >= rows || col >= cols) return null;
    const k = row * cols + col;
    return { row, col, free: Boolean(bits[k >> 3] & (1 << (k & 7))) };
  }

  fit() {
    if (!this.map || !this.width) return;
    const { width, height, resolution, origin: [x, y, yaw] } = this.map;
    const w = width * resolution, h = height * resolution, c = Math.cos(yaw), s = Math.sin(yaw);
    const wide = Math.abs(c) * w + Math.abs(s) * h, high = Math.abs(s) * w + Math.abs(c) * h;
    const room = [this.width - EDGE.left - EDGE.right, this.height - EDGE.top - EDGE.bottom];
    this.view.scale = Math.min(Math.max(room[0], 80) / wide, Math.max(room[1], 80) / high);
    this.view.x = x + (c * w - s * h) / 2 + (EDGE.right - EDGE.left) / 2 / this.view.scale;
    this.view.y = y + (s * w + c * h) / 2 + (EDGE.top - EDGE.bottom) / 2 / this.view.scale;
    this.fitted = true;
  }

  zoom(factor, px = this.width / 2, py = this.height / 2) {
    const [x, y] = this.toWorld(px, py);
    this.view.scale = Math.min(2000, Math.max(0.5, this.view.scale * factor));
    const [nx, ny] = this.toWorld(px, py);
    this.pan(x - nx, y - ny);
  }

  pan(dx, dy) {
    this.view.x += dx;
    this.view.y += dy;
  }

  robotAt(px, py) {
    let best = null, nearest = Infinity;
    for (let i = 0; i < this.names.length; i++) {
      const pose = this.now?.robots.status[i] === REMOVED ? null : this.pose(i);
      if (!pose) continue;
      const [sx, sy] = this.toScreen(pose.x, pose.y), away = Math.hypot(sx - px, sy - py);
      if (away < Math.max(10, this.radius(i) * this.view.scale) && away < nearest) [best, nearest] = [i, away];
    }
    return best;
  }

  // Pointers --------------------------------------------------------------------------------------------

  listen() {
    const at = (event) => {
      const box = this.canvas.getBoundingClientRect();
      return [event.clientX - box.left, event.clientY - box.top];
    };
    this.canvas.addEventListener("pointerdown", (event) => {
      this.canvas.setPointerCapture(event.pointerId);
      const [x, y] = at(event);
      this.pointers.set(event.pointerId, { x, y });
      this.moved = this.pointers.size > 1 ? Infinity : 0;
    });
    this.canvas.addEventListener("pointermove", (event) => {
      const [x, y] = at(event), old = this.pointers.get(event.pointerId);
      if (!old) return this.picked.hover(...this.toWorld(x, y), this.robotAt(x, y));
      this.drag(event.pointerId, old, x, y);
    });
    const up = (event) => {
      const known = this.pointers.delete(event.pointerId), [x, y] = at(event);
      if (!known || event.type !== "pointerup" || this.moved > TAP || event.button > 0) return;
      const robot = this.robotAt(x, y);
      if (robot === null) this.picked.place(...this.toWorld(x, y));
      else this.picked.robot(robot);
    };
    for (const kind of ["pointerup", "pointercancel"]) this.canvas.addEventListener(kind, up);
    this.canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      this.zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0015)), ...at(event));
    }, { passive: false });
  }

  drag(id, old, x, y) {
    const [a, b] = this.toWorld(old.x, old.y), [c, d] = this.toWorld(x, y);
    this.moved += Math.hypot(x - old.x, y - old.y);
    const other = [...this.pointers].find(([key]) => key !== id)?.[1];
    if (other) { // two fingers
      const before = Math.hypot(old.x - other.x, old.y - other.y), after = Math.hypot(x - other.x, y - other.y);
      this.pan((a - c) / 2, (b - d) / 2);
      if (before > 0) this.zoom(after / before, (x + other.x) / 2, (y + other.y) / 2);
      this.moved = Infinity;
    } else if (this.moved > TAP) {
      this.pan(a - c, b - d);
    }
    this.pointers.set(id, { x, y });
  }

  // Drawing ---------------------------------------------------------------------------------------------

  resize() {
    const ratio = Math.min(devicePixelRatio || 1, 2);
    this.width = this.canvas.clientWidth;
    this.height = this.canvas.clientHeight;
    this.canvas.width = Math.round(this.width * ratio);
    this.canvas.height = Math.round(this.height * ratio);
    this.ratio = ratio;
    if (!this.fitted) this.fit();
  }

  // Colours of the theme, also into the map's picture.
  paint() {
    const style = getComputedStyle(document.documentElement);
    for (const name of ["floor", "unknown", "wall", "held", "move", "goal", "veto", "label", "nose", "accent"]) {
      this.colours[name] = style.getPropertyValue(`--${name}`).trim();
    }
    this.colours.status = STATUS.map((_, k) => style.getPropertyValue(`--s${k}`).trim());
    if (!this.map) return;
    const { width, height, image } = this.map, surface = new OffscreenCanvas(width, height);
    const pen = surface.getContext("2d", { willReadFrequently: true });
    pen.drawImage(image, 0, 0);
    const pixels = pen.getImageData(0, 0, width, height);
    const rgb = (name) => {
      pen.fillStyle = this.colours[name];
      pen.fillRect(0, 0, 1, 1);
      return pen.getImageData(0, 0, 1, 1).data;
    };
    const [floor, unknown, wall] = ["floor", "unknown", "wall"].map(rgb);
    for (let k = 0; k < pixels.data.length; k += 4) {
      const level = pixels.data[k], colour = level > 200 ? wall : level > 60 ? unknown : floor;
      pixels.data[k] = colour[0];
      pixels.data[k + 1] = colour[1];
      pixels.data[k + 2] = colour[2];
    }
    pen.putImageData(pixels, 0, 0);
    this.surface = surface;
  }

  draw(live) {
    const { pen } = this;
    if (!this.width) return;
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    pen.fillStyle = this.colours.unknown ?? "#888";
    pen.fillRect(0, 0, this.width, this.height);
    this.drawMap();
    pen.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    if (!this.now) return;
    const at = live ? performance.now() : this.now.at + 1e6;
    const poses = this.names.map((_, i) => (this.now.robots.status[i] === REMOVED ? null : this.pose(i, at)));
    if (this.grid) this.drawCells(poses, at);
    this.drawRobots(poses);
    this.drawAim();
    this.drawNames(poses);
  }

  drawMap() {
    if (!this.surface) return;
    const { height, resolution, origin: [x, y, yaw] } = this.map, { pen, ratio } = this;
    const s = this.view.scale * resolution * ratio, c = Math.cos(yaw), n = Math.sin(yaw), h = height * resolution;
    const [left, top] = this.toScreen(x - h * n, y + h * c);
    pen.setTransform(s * c, -s * n, s * n, s * c, left * ratio, top * ratio);
    pen.imageSmoothingEnabled = s < 2;
    pen.drawImage(this.surface, 0, 0);
  }

  drawCells(poses, at) {
    const { pen, grid, layers, colours } = this, r = this.now.robots, yaw = grid.origin[2];
    const side = 0.92 * grid.cell * this.view.scale;
    const square = (row, col) => {
      const [px, py] = this.toScreen(...this.centre(row, col)), c = Math.cos(yaw) * side / 2, s = Math.sin(yaw) * side / 2;
      pen.moveTo(px - c - s, py + s - c);
      pen.lineTo(px + c - s, py - s - c);
      pen.lineTo(px + c + s, py - s + c);
      pen.lineTo(px - c + s, py + s + c);
      pen.closePath();
    };
    const lines = (colour, width, each) => {
      pen.strokeStyle = colour;
      pen.lineWidth = width;
      pen.beginPath();
      poses.forEach((pose, i) => pose && each(pose, i));
      pen.stroke();
    };
    if (layers.held) {
      pen.fillStyle = colours.held;
      pen.beginPath();
      poses.forEach((_, i) => {
        if (r.row[i] >= 0) square(r.row[i], r.col[i]);
        if (r.target_row[i] >= 0 && (r.target_row[i] !== r.row[i] || r.target_col[i] !== r.col[i])) {
          square(r.target_row[i], r.target_col[i]);
        }
      });
      pen.fill();
    }
    if (layers.goals) {
      pen.globalAlpha = 0.5;
      lines(colours.goal, 1, (pose, i) => {
        if (r.goal_row[i] < 0) return;
        pen.moveTo(...this.toScreen(pose.x, pose.y));
        pen.lineTo(...this.toScreen(...this.centre(r.goal_row[i], r.goal_col[i])));
      });
      pen.globalAlpha = 1;
      const d = Math.max(3, side / 5);
      lines(colours.goal, 2, (_, i) => {
        if (r.goal_row[i] < 0) return;
        const [px, py] = this.toScreen(...this.centre(r.goal_row[i], r.goal_col[i]));
        pen.moveTo(px, py - d);
        pen.lineTo(px + d, py);
        pen.lineTo(px, py + d);
        pen.lineTo(px - d, py);
        pen.closePath();
      });
    }
    if (layers.moves) {
      lines(colours.move, Math.max(2, side / 14), (pose, i) => {
        if (r.target_row[i] < 0 || (r.target_row[i] === r.row[i] && r.target_col[i] === r.col[i])) return;
        pen.moveTo(...this.toScreen(pose.x, pose.y));
        pen.lineTo(...this.toScreen(...this.centre(r.target_row[i], r.target_col[i])));
      });
    }
    if (layers.vetoes) {
      poses.forEach((pose, i) => {
        const left = pose && this.vetoAt[i] ? 1 - (at - this.vetoAt[i]) / VETO_MS : 0;
        if (left <= 0 || left > 1) return;
        pen.globalAlpha = left;
        pen.strokeStyle = colours.veto;
        pen.lineWidth = 3;
        pen.beginPath();
        pen.arc(...this.toScreen(pose.x, pose.y), (this.radius(i) * 1.5) * this.view.scale + 3, 0, 7);
        pen.stroke();
        pen.globalAlpha = 1;
      });
    }
  }

  drawRobots(poses) {
    const { pen, colours } = this, { status } = this.now.robots, groups = new Map();
    poses.forEach((pose, i) => pose && (groups.get(status[i]) ?? groups.set(status[i], []).get(status[i])).push(i));
    const size = (i) => Math.max(3, this.radius(i) * this.view.scale);
    for (const [kind, robots] of groups) {
      pen.fillStyle = colours.status[kind] ?? colours.label;
      pen.beginPath();
      for (const i of robots) {
        const [x, y] = this.toScreen(poses[i].x, poses[i].y);
        pen.moveTo(x + size(i), y);
        pen.arc(x, y, size(i), 0, 7);
      }
      pen.fill();
      pen.strokeStyle = colours.nose;
      pen.lineWidth = 2;
      pen.beginPath();
      for (const i of robots) {
        const [x, y] = this.toScreen(poses[i].x, poses[i].y), r = size(i) * 0.92;
        if (r < 4 || MARK[kind]) continue;
        pen.moveTo(x, y);
        pen.lineTo(x + r * Math.cos(poses[i].yaw), y - r * Math.sin(poses[i].yaw));
      }
      pen.stroke();
      if (!MARK[kind]) continue;
      pen.fillStyle = colours.nose;
      pen.textAlign = "center";
      pen.textBaseline = "middle";
      for (const i of robots) {
        pen.font = `bold ${Math.max(8, size(i) * 1.1)}px system-ui, sans-serif`;
        pen.fillText(MARK[kind], ...this.toScreen(poses[i].x, poses[i].y));
      }
    }
    const chosen = this.names.indexOf(this.selected);
    if (chosen < 0 || !poses[chosen]) return;
    pen.strokeStyle = colours.label;
    pen.lineWidth = 3;
    pen.beginPath();
    pen.arc(...this.toScreen(poses[chosen].x, poses[chosen].y), size(chosen) + 4, 0, 7);
    pen.stroke();
  }

  drawAim() {
    if (!this.aim || this.selected === null) return;
    const { pen, colours } = this, cell = this.cellAt(this.aim.x, this.aim.y);
    const [x, y] = cell?.free ? this.centre(cell.row, cell.col) : [this.aim.x, this.aim.y];
    const [px, py] = this.toScreen(x, y);
    pen.strokeStyle = cell && !cell.free ? colours.veto : colours.goal;
    pen.lineWidth = 2;
    pen.setLineDash([5, 4]);
    pen.beginPath();
    pen.arc(px, py, Math.max(7, (this.grid?.cell ?? 0.4) * this.view.scale * 0.4), 0, 7);
    pen.moveTo(px - 12, py);
    pen.lineTo(px + 12, py);
    pen.moveTo(px, py - 12);
    pen.lineTo(px, py + 12);
    pen.stroke();
    pen.setLineDash([]);
  }

  drawNames(poses) {
    const { pen } = this, all = this.layers.names && (this.radius(0) * this.view.scale > 9 || this.names.length <= 24);
    pen.font = "12px system-ui, sans-serif";
    pen.textAlign = "center";
    pen.textBaseline = "bottom";
    pen.fillStyle = this.colours.label;
    pen.strokeStyle = this.colours.floor;
    pen.lineWidth = 3;
    pen.lineJoin = "round";
    poses.forEach((pose, i) => {
      if (!pose || !(all || this.names[i] === this.selected)) return;
      const [x, y] = this.toScreen(pose.x, pose.y);
      const top = y - Math.max(3, this.radius(i) * this.view.scale) - 3;
      pen.strokeText(this.names[i], x, top); // a rim, readable on walls
      pen.fillText(this.names[i], x, top);
    });
  }
}
