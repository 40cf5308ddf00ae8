// The websocket: reconnects by itself, matches answers to commands, and never lets a stop get lost.

const RETRY_MS = [300, 600, 1200, 2500, 5000];
const FULL_MS = 30000; // before a watcher who had to make way for others tries again
const SILENT_MS = 4000; // without a word the connection is dead, whatever the browser thinks
const ANSWER_MS = 8000;
const STOP_REPEAT_MS = 1500;
const STOP_KEEP_MS = 30000; // a stop that could not be sent is sent when the connection is back, for this long

export class Link {
  constructor(handlers) {
    this.handlers = handlers;
    this.waiting = new Map();
    this.id = 0;
    this.tries = 0;
    this.heard = 0;
    this.stopWanted = 0;
    this.connect();
    setInterval(() => this.watch(), 500);
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => document.hidden || this.retry());
  }

  get open() { return this.socket?.readyState === WebSocket.OPEN; }

  get token() { return new URLSearchParams(location.hash.slice(1)).get("token"); }

  connect() {
    clearTimeout(this.timer);
    this.timer = null;
    const socket = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    this.heard = performance.now();
    socket.onopen = () => {
      this.tries = 0;
      const token = this.token;
      if (token) socket.send(JSON.stringify({ type: "hello", token: token.slice(0, 256) }));
      this.handlers.opened();
      if (performance.now() < this.stopWanted) this.stop();
    };
    socket.onmessage = (event) => this.take(event.data);
    socket.onclose = (event) => this.closed(socket, event);
  }

  closed(socket, event) {
    if (socket !== this.socket) return;
    for (const [id, wait] of this.waiting) this.settle(id, false, `connection lost; ${wait.what} may not have arrived`);
    const text = {
      1009: "the server refused a message that was too long",
      1013: "too many watch; open the URL with the token for a place that is kept",
    }[event.code] ?? "";
    this.handlers.closed(text);
    const soon = RETRY_MS[Math.min(this.tries++, RETRY_MS.length - 1)];
    this.timer ??= setTimeout(() => this.connect(), event.code === 1013 && !this.token ? FULL_MS : soon);
  }

  retry() {
    if (this.timer === null || this.open) return;
    this.tries = 0;
    this.connect();
  }

  watch() {
    const now = performance.now();
    if (this.socket.readyState < 2 && now - this.heard > SILENT_MS) {
      const dead = this.socket;
      dead.onclose = null;
      dead.close();
      this.closed(dead, { code: 0 });
    }
    for (const [id, wait] of this.waiting) {
      if (now > wait.until) this.settle(id, false, `no answer to ${wait.what}`);
    }
  }

  take(data) {
    this.heard = performance.now();
    let message;
    if (data instanceof ArrayBuffer) {
      const length = new DataView(data).getUint32(0, true);
      message = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 4, length)));
      message.png = new Blob([new Uint8Array(data, 4 + length)], { type: "image/png" });
    } else {
      message = JSON.parse(data);
    }
    if (message.type === "answer") this.settle(message.id, message.ok, message.text);
    else this.handlers.message(message);
  }

  settle(id, ok, text) {
    const wait = this.waiting.get(id);
    if (!wait) return;
    this.waiting.delete(id);
    wait.resolve({ ok, text });
  }

  send(command, what) {
    if (!this.open) return Promise.resolve({ ok: false, text: `not sent, there is no connection: ${what}` });
    const id = ++this.id;
    this.socket.send(JSON.stringify({ ...command, id }));
    return new Promise((resolve) => this.waiting.set(id, { resolve, what, until: performance.now() + ANSWER_MS }));
  }

  // Stop all: sent at once, repeated until confirmed, kept while there is no connection.
  stop() {
    if (performance.now() > this.stopWanted) this.stopWanted = performance.now() + STOP_KEEP_MS;
    const sent = this.send({ type: "stop" }, "stop of all robots");
    clearTimeout(this.repeat);
    this.repeat = setTimeout(() => {
      if (performance.now() < this.stopWanted && this.open) this.stop();
    }, STOP_REPEAT_MS);
    return sent.then((answer) => {
      if (answer.ok) {
        this.stopWanted = 0;
        clearTimeout(this.repeat);
      }
      this.handlers.stopAnswered(answer);
    });
  }

  forgetStop() {
    this.stopWanted = 0;
    clearTimeout(this.repeat);
  }
}
