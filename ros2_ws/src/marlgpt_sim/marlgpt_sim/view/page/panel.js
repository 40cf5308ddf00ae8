// Everything beside the map. All that comes from outside is set as text, never as markup.

import { ATTENTION, STATUS } from "./scene.js";

const $ = (id) => document.getElementById(id);
const LOGGED = 60;
const LEVELS = ["ok", "warn", "error", "stale"];

function make(tag, text, name) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (name) element.className = name;
  return element;
}

function set(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function log(text, level = "") {
  const item = make("li", undefined, level);
  item.append(make("time", new Date().toLocaleTimeString()), text);
  $("log").prepend(item);
  while ($("log").childElementCount > LOGGED) $("log").lastChild.remove();
}

export function legend(style) {
  $("legend").replaceChildren(...STATUS.map((name, k) => {
    const item = make("span"), dot = make("i");
    dot.style.background = style.getPropertyValue(`--s${k}`);
    item.append(dot, name);
    return item;
  }));
}

export class Cards {
  constructor() { this.cells = new Map(); }

  show(name, value, kind = "") {
    let cell = this.cells.get(name);
    if (value === null) {
      cell?.remove();
      this.cells.delete(name);
      return;
    }
    if (!cell) {
      cell = make("div");
      cell.append(make("dt", name), make("dd"));
      $("cards").append(cell);
      this.cells.set(name, cell);
    }
    set(cell.lastChild, value);
    cell.className = kind;
  }

  update(frame) {
    const { sim, sample, robots } = frame;
    this.show("Goals per minute", sample?.goals === null || !sample ? "–" : sample.goals.toFixed(1));
    this.show("Goals reached", String(frame.all_goals));
    this.show("Vetoes", String(frame.all_vetoes));
    this.show("Decision, median", sample?.latency ? `${sample.latency.toFixed(1)} ms` : "–");
    const attention = robots.status.filter((s) => ATTENTION.has(s)).length;
    this.show("Standing for a reason", String(attention), attention ? "bad" : "");
    this.show("Separation now", sim?.gap === undefined || sim.gap === null ? null : `${sim.gap.toFixed(3)} m`);
    this.show("Smallest so far", sim?.least === undefined || sim.least === null ? null : `${sim.least.toFixed(3)} m`);
    const contacts = sim ? sim.robot_contacts + sim.wall_contacts : null;
    this.show("Contacts", contacts === null ? null : String(contacts), contacts ? "bad" : "good");
  }
}

export class Robots {
  constructor(choose) {
    this.rows = [];
    this.choose = choose;
  }

  setRoster(names) {
    this.names = names;
    this.rows = names.map((name) => {
      const row = make("tr"), first = make("td"), button = make("button", name);
      button.type = "button";
      button.addEventListener("click", () => this.choose(name));
      first.append(button);
      row.append(first, make("td"), make("td"), make("td"));
      return row;
    });
    $("robots").replaceChildren(...this.rows);
  }

  update(frame, selected) {
    const { status, goals_reached: goals, vetoes } = frame.robots;
    this.rows.forEach((row, i) => {
      const [, state, reached, changed] = row.children, detail = frame.detail[i];
      set(state, (STATUS[status[i]] ?? "?") + (detail ? `: ${detail}` : ""));
      set(reached, String(goals[i]));
      set(changed, String(vetoes[i]));
      row.className = ATTENTION.has(status[i]) ? "attention" : "";
      row.setAttribute("aria-selected", String(this.names[i] === selected));
    });
  }
}

export function chosen(frame, index, name) {
  $("chosen").hidden = name === null;
  if (name === null) return;
  set($("chosenname"), name);
  const r = frame?.robots, status = r && index >= 0 ? r.status[index] : undefined;
  if (status === undefined) return set($("chosenstatus"), "not in the fleet");
  const detail = frame.detail[index];
  set($("chosenstatus"), STATUS[status] + (detail ? `: ${detail}` : ""));
  const facts = [
    ["Pose", r.x[index] === null ? "none" : `${r.x[index].toFixed(2)} m, ${r.y[index].toFixed(2)} m`],
    ["Age of it", r.pose_age[index] === null ? "–" : `${r.pose_age[index].toFixed(2)} s`],
    ["Cell", r.row[index] < 0 ? "none" : `row ${r.row[index]}, column ${r.col[index]}`],
    ["Goal", r.goal_row[index] < 0 ? "none" : `row ${r.goal_row[index]}, column ${r.goal_col[index]}`],
  ];
  const list = $("facts");
  if (list.childElementCount !== 2 * facts.length) {
    list.replaceChildren(...facts.flatMap(([key]) => [make("dt", key), make("dd")]));
  }
  facts.forEach(([, value], k) => set(list.children[2 * k + 1], value));
}

export function diagnostics(items) {
  if (!items.length) return;
  const open = $("diagnostics").querySelector("details")?.open;
  const parts = items.map((item) => make("p", `${item.name}: ${item.text}`, LEVELS[item.level] ?? "error"));
  const details = make("details"), list = make("dl", undefined, "facts");
  details.open = Boolean(open);
  for (const [key, value] of Object.entries(items.find((item) => item.name === "fleet")?.values ?? {})) {
    list.append(make("dt", key), make("dd", value));
  }
  details.append(make("summary", "All values"), list);
  $("diagnostics").replaceChildren(...parts, details);
}
