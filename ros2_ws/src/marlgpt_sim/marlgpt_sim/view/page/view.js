// Puts the parts together: what comes over the link goes to map, panel and plots; what the operator does goes back.

import { Link } from "./link.js";
import { Cards, Robots, chosen, diagnostics, legend, log } from "./panel.js";
import { Plots } from "./plots.js";
import { Scene } from "./scene.js";

const PROTOCOL = 1;
const STALE_S = 2; // without a state of the fleet
const FRAME_MS = 2500; // without a frame of the server
const ARMED_MS = 4000;
const DRAW_MS = 30; // fluid, and easy on tablets
const root = document.documentElement;
const $ = (id) => document.getElementById(id);
const state = { frame: null, frameAt: 0, frames: 0, welcome: null, selected: null, listAt: 0 };

addEventListener("error", (event) => { root.dataset.error = event.message; });
addEventListener("unhandledrejection", (event) => { root.dataset.error = String(event.reason); });

const scene = new Scene($("map"), { robot: chooseIndex, place: sendGoal, hover });
const plots = new Plots($("plots"));
const cards = new Cards();
const robots = new Robots(choose);
const link = new Link({
  opened() { root.dataset.connection = "open"; },
  closed(text) {
    if (root.dataset.connection === "open") log(`Connection lost${text ? `: ${text}` : ""}; trying again`, "bad");
    root.dataset.connection = "closed";
  },
  message: take,
  stopAnswered(answer) {
    log(answer.ok ? `Stop: ${answer.text}` : `STOP NOT CONFIRMED: ${answer.text}`, "bad");
    if (!answer.ok && state.welcome && !state.welcome.may_command) link.forgetStop();
  },
});
window.view = { scene, state, link }; // for tests and the browser's console

const TAKE = {
  welcome(message) {
    // A page from before an update would misread what comes.
    if (message.protocol !== PROTOCOL) return location.reload();
    state.welcome = message;
    $("title").textContent = document.title = message.title;
    $("mode").hidden = message.may_command;
    $("mode").textContent = "watching only";
    $("mode").title = message.reason;
    for (const id of ["stop", "resume", "stopone", "resumeone"]) $(id).disabled = !message.may_command;
    if (!message.may_command) hint(message.reason);
  },
  async map(message) { await scene.setMap(message); },
  grid(message) { scene.setGrid(message); },
  roster(message) {
    scene.setRoster(message);
    robots.setRoster(message.names);
    root.dataset.robots = message.names.length;
    if (state.selected !== null && !message.names.includes(state.selected)) choose(null);
  },
  history(message) { plots.reset(message); },
  diagnostics(message) { diagnostics(message.items); },
  event(message) { log(message.text, message.level); },
  error(message) {
    log(message.text, "bad");
    hint(message.text, true);
  },
  frame(message) {
    Object.assign(state, { frame: message, frameAt: performance.now(), frames: state.frames + 1 });
    root.dataset.frames = state.frames;
    scene.setFrame(message);
    if (message.sample) plots.add(message.sample);
  },
};

function take(message) { TAKE[message.type]?.(message); }

// Operator -----------------------------------------------------------------------------------------------

function hint(text, bad = false) {
  $("hint").textContent = text;
  $("hint").classList.toggle("bad", bad);
}

function mayCommand() { return Boolean(state.welcome?.may_command); }

function choose(name) {
  state.selected = scene.selected = name;
  scene.aim = null;
  $("map").classList.toggle("aiming", name !== null && mayCommand());
  if (!state.welcome || mayCommand()) {
    hint(name === null ? "Click a robot, then where it should go." : `Click where ${name} should go; Esc deselects.`);
  }
  chosen(state.frame, scene.names.indexOf(name), name);
  if (state.frame?.robots) robots.update(state.frame, name);
}

function chooseIndex(index) { choose(scene.names[index] === state.selected ? null : scene.names[index]); }

function hover(x, y, robot) {
  $("map").classList.toggle("pointing", robot !== null);
  if (state.selected !== null && mayCommand()) scene.aim = robot === null ? { x, y } : null;
}

async function sendGoal(x, y) {
  const robot = state.selected;
  if (robot === null || !mayCommand()) return;
  const answer = await link.send({ type: "goal", robot, x, y }, `goal of ${robot}`);
  log(`${robot}: ${answer.text}`, answer.ok ? "" : "bad");
  hint(answer.text, !answer.ok);
}

async function command(type, robot, what) {
  const answer = await link.send(robot === undefined ? { type } : { type, robot }, what);
  log(answer.text, answer.ok ? "" : "bad");
}

function stop() {
  log(link.open ? "Stop sent" : "NO CONNECTION: the stop is sent as soon as it is back", "bad");
  link.stop();
}

let armed = 0;
function resume() { // a second press within four seconds: robots that start by mistake do harm
  if (!mayCommand()) return;
  const now = performance.now();
  if (now < armed) {
    arm(0);
    link.forgetStop();
    command("resume", undefined, "resume");
  } else arm(now + ARMED_MS);
}

function arm(until) {
  armed = until;
  $("resume").classList.toggle("armed", until > 0);
  $("resume").firstChild.textContent = until ? "Press again to resume " : "Resume all ";
  if (until) setTimeout(() => performance.now() >= armed && arm(0), ARMED_MS + 50);
}

$("stop").addEventListener("pointerdown", stop);
$("stop").addEventListener("click", (event) => event.detail === 0 && stop()); // by keyboard or assistive technology
$("resume").addEventListener("click", resume);
$("stopone").addEventListener("click", () => command("stop_robot", state.selected, `stop of ${state.selected}`));
$("resumeone").addEventListener("click", () => command("resume_robot", state.selected, `resume of ${state.selected}`));
$("deselect").addEventListener("click", () => choose(null));
$("zoomin").addEventListener("click", () => scene.zoom(1.4));
$("zoomout").addEventListener("click", () => scene.zoom(1 / 1.4));
$("fit").addEventListener("click", () => scene.fit());

for (const name of Object.keys(scene.layers)) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.setAttribute("aria-pressed", "true");
  button.addEventListener("click", () => {
    scene.layers[name] = !scene.layers[name];
    button.setAttribute("aria-pressed", String(scene.layers[name]));
  });
  $("layers").append(button);
}

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "s") { // stops also while a key repeats or another element has the focus
    event.preventDefault();
    if (!event.repeat && mayCommand()) stop();
  } else if (key === "r" && !event.repeat) resume();
  else if (key === "Escape") choose(null);
  else if (event.target === $("map")) mapKey(event, key);
}, true);

function mapKey(event, key) {
  if (key in ARROWS) {
    event.preventDefault();
    const [dx, dy] = ARROWS[key], step = scene.grid?.cell ?? 0.5;
    if (state.selected === null || !mayCommand()) return scene.pan(dx * 60 / scene.view.scale, dy * 60 / scene.view.scale);
    scene.aim ??= scene.pose(scene.names.indexOf(state.selected)) ?? { x: scene.view.x, y: scene.view.y };
    scene.aim = { x: scene.aim.x + dx * step, y: scene.aim.y + dy * step };
  } else if (key === "Enter" && scene.aim) sendGoal(scene.aim.x, scene.aim.y);
  else if (key === "+" || key === "=") scene.zoom(1.4);
  else if (key === "-") scene.zoom(1 / 1.4);
  else if ((key === "n" || key === "p") && scene.names.length) {
    const at = scene.names.indexOf(state.selected), n = scene.names.length;
    choose(scene.names[key === "n" ? (at + 1) % n : (at + n - (at < 0 ? 0 : 1)) % n]);
  }
}

// Look ---------------------------------------------------------------------------------------------------

function theme(name) {
  root.dataset.theme = name;
  scene.paint();
  legend(getComputedStyle(root));
  plots.draw();
}

function remembered() {
  try { return localStorage.getItem("marlgpt-theme"); } catch { return null; }
}

const dark = matchMedia("(prefers-color-scheme: dark)");
theme(remembered() ?? (dark.matches ? "dark" : "light"));
dark.addEventListener("change", () => remembered() ?? theme(dark.matches ? "dark" : "light"));
$("theme").addEventListener("click", () => {
  const name = root.dataset.theme === "dark" ? "light" : "dark";
  try { localStorage.setItem("marlgpt-theme", name); } catch { /* a private window remembers nothing */ }
  theme(name);
});

// What is wrong, the worst first; null if what is shown is true.
function trouble() {
  const since = performance.now() - state.frameAt;
  if (!link.open) return ["bad", "No connection to the view's server: what you see is old. Trying again."];
  if (!state.frame || since > FRAME_MS) return ["bad", "The view's server sends nothing: what you see is old."];
  const age = state.frame.age === null ? null : state.frame.age + since / 1000;
  const gone = state.frame.there ? "it runs, but is silent" : "nobody publishes fleet/state";
  if (age === null) return ["", `Nothing heard of the fleet yet: ${gone}.`];
  if (age > STALE_S) return ["bad", `Nothing heard of the fleet for ${age.toFixed(0)} s (${gone}): what you see is old.`];
  return null;
}

function check() {
  const wrong = trouble(), stopped = Boolean(state.frame?.stopped);
  root.dataset.stale = String(wrong !== null);
  root.dataset.stopped = String(stopped);
  const banner = $("banner"), text = wrong ? wrong[1] : "All robots are stopped until somebody resumes them.";
  banner.hidden = !wrong && !stopped;
  banner.className = `banner ${wrong ? wrong[0] : ""}`;
  if (!banner.hidden && banner.textContent !== text) banner.textContent = text;
  const pill = $("connection"), live = wrong ? "not live" : stopped ? "live, stopped" : "live";
  pill.className = `pill ${wrong || stopped ? "bad" : "good"}`;
  if (pill.textContent !== live) pill.textContent = live;
}

function update() { // what people read need not change at the rate of the screen
  check();
  if (!state.frame?.robots || document.hidden) return;
  cards.update(state.frame);
  if (state.frame.roster === scene.roster) robots.update(state.frame, state.selected);
  chosen(state.frame, scene.names.indexOf(state.selected), state.selected);
}

setInterval(update, 250);
let drawnAt = 0;
(function animate(now) {
  requestAnimationFrame(animate);
  if (now - drawnAt < DRAW_MS) return;
  drawnAt = now;
  scene.draw(root.dataset.stale !== "true");
  state.drawn = (state.drawn ?? 0) + 1;
})(performance.now());
root.dataset.ready = "true";
