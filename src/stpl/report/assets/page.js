"use strict";
(() => {
  const one = (selector, root = document) => root.querySelector(selector);

  // Theme: the system's until the reader switches; remembered where the browser allows it.
  const root = document.documentElement;
  const remembered = (value) => {
    try {
      if (value) localStorage.setItem("stpl-theme", value);
      return localStorage.getItem("stpl-theme");
    } catch { return null; }
  };
  if (remembered()) root.dataset.theme = remembered();
  one("#theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    remembered(root.dataset.theme);
  });

  // A link to an experiment opens its runs; printing opens all.
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.matches("details")) { target.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", open);
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
  open();

  const data = JSON.parse(one("#clips")?.textContent ?? "null");
  if (data) play(one(".player"), data);
  if (document.body.dataset.live) follow();

  function play(player, clips) {
    const [height, width] = clips.size, many = clips.keys.length;
    const control = (name) => one(`[data-set="${name}"]`, player);
    const slider = one("input[type=range]", player), button = one("[data-do=play]", player);
    const rows = new Map(clips.rows.map((row) => [row.name, row]));
    const decoded = new Map();
    let index = 0, timer = 0, wanted = 0;

    for (const side of ["left", "right"]) {
      const name = player.dataset[side];
      control(side).value = rows.has(name) ? name : clips.rows[side === "left" ? 0 : clips.rows.length - 1].name;
    }

    const load = async (uri) => {
      if (!decoded.has(uri)) {
        const image = new Image();
        image.src = uri;
        decoded.set(uri, image.decode().then(() => image));
      }
      return decoded.get(uri);
    };
    const screen = (name) => one(`[data-screen="${name}"]`, player);
    const context = (name) => one("canvas", screen(name)).getContext("2d", { willReadFrequently: true });
    const pixels = (image) => {
      const canvas = new OffscreenCanvas(width, height), drawing = canvas.getContext("2d", { willReadFrequently: true });
      drawing.drawImage(image, 0, 0);
      return new Uint32Array(drawing.getImageData(0, 0, width, height).data.buffer);
    };
    const paint = (name, frame, labels) => {
      const drawing = context(name), over = control("overlay").checked;
      drawing.clearRect(0, 0, width, height);
      if (frame && (over || !labels)) drawing.drawImage(frame, 0, 0, width, height);
      drawing.globalAlpha = over && frame ? 0.55 : 1;
      if (labels) drawing.drawImage(labels, 0, 0);
      drawing.globalAlpha = 1;
    };
    const describe = (name, text) => {
      one("figcaption", screen(name)).textContent = text;
      one("canvas", screen(name)).setAttribute("aria-label", `${text}, frame ${index + 1}`);
    };

    // Opaque colours as the bytes lie in memory: A, B, G, R.
    const MENDED = 0xffb27200, SPOILT = 0xff005ed5, WRONG = 0xff8c8c8c, RIGHT = 0xff1c1c1c;
    const compare = (label, left, right) => {
      const [truth, a, b] = [label, left, right].map(pixels), counts = { gained: 0, lost: 0, wrong: 0, right: 0 };
      const drawing = context("change"), image = drawing.createImageData(width, height);
      const out = new Uint32Array(image.data.buffer);
      for (let i = 0; i < truth.length; i++) {
        if (!(truth[i] >>> 24)) continue;  // no class is known here
        const first = a[i] === truth[i], second = b[i] === truth[i];
        const name = first ? (second ? "right" : "lost") : (second ? "gained" : "wrong");
        counts[name]++;
        out[i] = { right: RIGHT, lost: SPOILT, gained: MENDED, wrong: WRONG }[name];
      }
      drawing.putImageData(image, 0, 0);
      const all = Math.max(1, counts.gained + counts.lost + counts.wrong + counts.right);
      for (const [name, count] of Object.entries(counts)) {
        one(`[data-count="${name}"]`, player).textContent = `${(100 * count / all).toFixed(1)} %`;
      }
    };

    const draw = async () => {
      const ticket = ++wanted, left = rows.get(control("left").value), right = rows.get(control("right").value);
      const uris = [clips.frames[index], clips.labels[index], left.images[index], right.images[index]];
      const [frame, label, before, after] = await Promise.all(uris.map(load));
      if (ticket !== wanted) return;  // the reader has moved on
      paint("frame", frame);
      paint("label", frame, label);
      paint("left", frame, before);
      paint("right", frame, after);
      compare(label, before, after);
      describe("frame", "Input");
      describe("label", "Label");
      describe("left", left.title);
      describe("right", right.title);
      describe("change", "Difference");
      one("[data-says=gained]", player).textContent = `mended: only ${right.title} is right`;
      one("[data-says=lost]", player).textContent = `spoilt: only ${left.title} is right`;
      slider.value = index;
      slider.setAttribute("aria-valuetext", `frame ${index + 1} of ${many}`);
      one("output", player).textContent = `${index + 1} / ${many}`;
      one("[data-count=key]", player).textContent = clips.keys[index];
      player.dataset.shown = index;
    };
    const go = (to) => { index = (to + many) % many; return draw(); };
    const stop = () => { clearInterval(timer); timer = 0; button.classList.remove("playing"); button.setAttribute("aria-label", "Play"); };
    const start = () => {
      timer = setInterval(() => go(index + 1), 1000 / Number(control("speed").value));
      button.classList.add("playing");
      button.setAttribute("aria-label", "Stop");
    };
    const toggle = () => (timer ? stop() : start());
    const does = { back: () => { stop(); go(index - 1); }, next: () => { stop(); go(index + 1); }, play: toggle };

    player.addEventListener("click", (event) => does[event.target.closest("button")?.dataset.do]?.());
    slider.addEventListener("input", () => { stop(); go(Number(slider.value)); });
    player.addEventListener("change", (event) => {
      if (event.target.dataset.set === "speed" && timer) { stop(); start(); }
      else if (event.target.dataset.set) draw();
    });
    player.addEventListener("keydown", (event) => {
      if (event.target.matches("select, input") && event.target.type !== "range") return;
      const keys = { ArrowLeft: does.back, ArrowRight: does.next, Home: () => { stop(); go(0); }, End: () => { stop(); go(many - 1); } };
      const act = keys[event.key] ?? (event.key === " " && event.target.tagName !== "BUTTON" ? toggle : null);
      if (act) { event.preventDefault(); act(); }
    });
    player.tabIndex = 0;
    draw();
  }

  // Served live: what runs is shown at once; a new record loads the page again.
  function follow() {
    let version = null;
    const ask = async () => {
      try {
        const state = await (await fetch("state")).json();
        if (version !== null && state.version !== version) location.reload();
        version = state.version;
        one("#progress").replaceChildren(...(state.running.length ? [heading("Begun and not recorded"), list(state.running)] : []));
      } catch { one("#progress").replaceChildren(heading("The server has stopped; the page stays as it was.")); }
    };
    const heading = (text) => Object.assign(document.createElement("h2"), { textContent: text });
    const list = (running) => {
      const items = Object.assign(document.createElement("ul"), { className: "progress" });
      for (const run of running) {
        const item = document.createElement("li"), bar = document.createElement("progress");
        bar.max = run.steps || 1; bar.value = run.step; bar.setAttribute("aria-label", run.run);
        const name = Object.assign(document.createElement("code"), { textContent: run.run });
        const said = ` step ${run.step}${run.steps ? ` of ${run.steps}` : ""}${run.miou === null ? "" : `, mIoU ${run.miou.toFixed(2)}`}`;
        item.append(name, " ", bar, said);
        items.append(item);
      }
      return items;
    };
    ask();
    setInterval(ask, 2000);
  }
})();
