// The review of one patient's lesions: an answer to each by key, new ones by a click, undo, a JSON file at the end.
// It works on the HTML of review.html.jinja, in the patient's page and, as a widget, in JupyterLab.

const SVG = "http://www.w3.org/2000/svg";
const WORDS = { yes: "microbleed", no: "no microbleed", unsure: "unsure" };
const SIGNS = { yes: "✓", no: "✗", unsure: "?", open: "·" };
const ADDED_MM = 6; // as `cmbfe import` draws a point
const SMALLEST_MM = 2, LARGEST_MM = 20;
const ZOOM_MM = 30; // side of the enlarged part of a slice
const UNDOS = 200;
const PIXELS_PER_STEP = 40; // of the mouse wheel; a touchpad sends many small movements

// `scope` holds the panel and the findings; `keyboard` is where keys are listened to; `save` gets a file's name and text.
function startReview(scope, keyboard, save) {
  const panel = scope.querySelector(".review");
  const series = [...scope.querySelectorAll("script.findings")].map((script) => JSON.parse(script.textContent));
  if (series.length === 0) return;
  const part = (name) => panel.querySelector(`[data-part="${name}"]`);
  const place = ["cmbfe review", panel.dataset.patient, ...series.map((one) => one.findings)].join("/");
  const state = { reader: "", answers: {}, added: [], at: 0, slice: 0, current: 0, past: [], ...restored(place) };
  let hidden = false, wheel = 0;

  // Every lesion: { at: its series, answer, best slice, boxes by slice, text } and `key` of a detected one.
  function lesions() {
    const detected = series.flatMap((own, at) =>
      own.lesions.map((lesion) => ({ ...lesion, at, key: `${at}/${lesion.number}` })));
    const added = state.added.map((one, index) => ({
      ...one, index, number: "+" + (index + 1), best: one.slice, boxes: boxesOf(series[one.at], one),
      text: `added on slice ${one.slice + 1}, ${one.diameter_mm} mm`,
    }));
    return [...detected.map((one) => ({ ...one, answer: state.answers[one.key] })), ...added];
  }

  function change(what) {
    const { answers, added, at, slice, current } = state;
    state.past.push(JSON.stringify({ answers, added, at, slice, current }));
    state.past = state.past.slice(-UNDOS);
    what();
  }

  function undo() {
    const before = state.past.pop();
    if (!before) return "Nothing to undo.";
    Object.assign(state, JSON.parse(before));
    return "Undone.";
  }

  function show(index) {
    const all = lesions();
    if (all.length === 0) return;
    state.current = Math.min(Math.max(index, 0), all.length - 1);
    state.at = all[state.current].at;
    state.slice = all[state.current].best;
  }

  function answer(given) {
    const all = lesions(), lesion = all[state.current];
    if (!lesion) return "No lesion here; a click on the slice adds one.";
    change(() => {
      if (lesion.key) state.answers = { ...state.answers, [lesion.key]: given };
      else if (given === "no") state.added = state.added.filter((_, index) => index !== lesion.index);
      else state.added = state.added.map((one, index) => (index === lesion.index ? { ...one, answer: given } : one));
    });
    const open = lesions().findIndex((one, index) => index > state.current && !one.answer);
    const left = openLesions().length;
    show(open >= 0 ? open : left ? openLesions()[0] : state.current);
    return `${lesion.number}: ${lesion.key || given !== "no" ? WORDS[given] : "taken back"}.` +
      (left ? "" : " Every lesion has an answer: save the review.");
  }

  const openLesions = () => lesions().flatMap((one, index) => (one.answer ? [] : [index]));

  function add(x, y) {
    const inside = ([left, top, width, height] = []) =>
      x >= left && x <= left + width && y >= top && y <= top + height;
    const hit = lesions().findIndex((one) => one.at === state.at && inside(one.boxes[state.slice]));
    if (hit >= 0) {
      state.current = hit;
      return `${lesions()[hit].number}: there is a lesion already.`;
    }
    const [column, row] = [x, y].map((px) => Math.round(10 * px) / 10);
    const { at, slice } = state;
    change(() => {
      state.added = [...state.added, { at, slice, x: column, y: row, diameter_mm: ADDED_MM, answer: "yes" }];
    });
    state.current = lesions().length - 1;
    return `Added on slice ${slice + 1}. U takes it back, + and − change its size.`;
  }

  function resize(step) {
    const lesion = lesions()[state.current];
    if (!lesion || lesion.key) return "Only an added lesion can be resized.";
    const diameter_mm = Math.min(Math.max(lesion.diameter_mm + step, SMALLEST_MM), LARGEST_MM);
    change(() => {
      state.added = state.added.map((one, index) => (index === lesion.index ? { ...one, diameter_mm } : one));
    });
    return `${diameter_mm} mm.`;
  }

  const turnTo = (slice) => (state.slice = Math.min(Math.max(slice, 0), series[state.at].slices.length - 1));

  function saveReview() {
    const open = openLesions();
    if (open.length) {
      show(open[0]);
      return `${open.length} without an answer: here is the first. A review is saved when each has one.`;
    }
    if (!state.reader) {
      part("reader").focus();
      return "Who reads? Give initials, then save.";
    }
    const name = `review-${panel.dataset.patient}-${state.reader}`.replace(/[^\p{L}\p{N}.-]+/gu, "_") + ".json";
    save(name, reviewText(panel.dataset.patient, series, state));
    return `Saved: ${name}`;
  }

  // Keys and buttons (by data-do) do the same.
  const actions = {
    yes: () => answer("yes"), no: () => answer("no"), unsure: () => answer("unsure"), undo, save: saveReview,
    previous: () => show(state.current - 1), next: () => show(state.current + 1),
    up: () => void turnTo(state.slice + 1), down: () => void turnTo(state.slice - 1),
    larger: () => resize(1), smaller: () => resize(-1), hide: () => void (hidden = !hidden),
  };
  const KEYS = {
    y: "yes", n: "no", "?": "unsure", u: "undo", s: "save", h: "hide", arrowleft: "previous", arrowright: "next",
    arrowup: "up", arrowdown: "down", "+": "larger", "-": "smaller",
  };

  function act(action) {
    const said = action();
    if (said) part("status").textContent = said;
    keep(place, state);
    const list = part("list"), isInList = list.contains(document.activeElement);
    draw();
    if (isInList) list.querySelector("[aria-current]")?.focus(); // its buttons are new
  }

  function draw() {
    const all = lesions(), own = series[state.at], lesion = all[state.current];
    const { width, height, spacing_mm: [row_mm, column_mm] } = own;
    const middle = middleOf(lesion && lesion.at === state.at ? lesion : null, state.slice) ?? [width / 2, height / 2];
    const [across, down] = [ZOOM_MM / column_mm, ZOOM_MM / row_mm];
    const around = [middle[0] - across / 2, middle[1] - down / 2, across, down];
    for (const [name, window] of [["slice", [0, 0, width, height]], ["zoom", around]]) {
      const view = part(name);
      view.setAttribute("viewBox", window.join(" "));
      view.style.aspectRatio = `${window[2] * column_mm} / ${window[3] * row_mm}`;
      view.setAttribute("aria-label", `slice ${state.slice + 1}${name === "zoom" ? `, ${ZOOM_MM} mm of it` : ""}`);
      const marks = hidden ? [] : all.filter((one) => one.at === state.at && one.boxes[state.slice]);
      const text = window[3] / (name === "slice" ? 32 : 14);
      view.replaceChildren(
        element("use", { href: `#${own.slices[state.slice]}` }),
        ...sidesOf(own.axes, window, text),
        ...marks.flatMap((one) => markOf(one, state.slice, one === lesion, text)));
    }
    part("stack").max = own.slices.length;
    part("stack").value = state.slice + 1;
    part("place").textContent = `slice ${state.slice + 1} of ${own.slices.length}`;
    part("series").value = state.at;
    part("caption").textContent = lesion ? `${lesion.number}: ${lesion.text}` : "No lesion was detected.";
    part("given").textContent = !lesion ? "" : lesion.answer ? `${SIGNS[lesion.answer]} ${WORDS[lesion.answer]}` : "no answer yet";
    const done = all.length - openLesions().length;
    part("progress").textContent = `${done} of ${all.length} read`;
    part("bar").max = Math.max(all.length, 1);
    part("bar").value = all.length ? done : 1;
    for (const button of panel.querySelectorAll("[data-do]"))
      if (WORDS[button.dataset.do]) button.setAttribute("aria-pressed", lesion?.answer === button.dataset.do);
    part("list").replaceChildren(...all.map((one, index) => {
      const item = document.createElement("button");
      item.type = "button";
      item.className = one.answer ?? "open";
      item.textContent = `${one.number} ${SIGNS[item.className]}`;
      item.setAttribute("aria-label", `lesion ${one.number}, ${WORDS[one.answer] ?? "no answer"}`);
      if (index === state.current) item.setAttribute("aria-current", "true");
      item.addEventListener("click", () => act(() => show(index)));
      return item;
    }));
  }

  keyboard.addEventListener("keydown", (event) => {
    const isTyping = event.target.matches("input:not([type=range]), textarea, select");
    if (isTyping) return event.key === "Enter" && event.target.blur();
    const key = event.key.toLowerCase();
    const name = event.ctrlKey || event.metaKey ? { z: "undo" }[key] : event.altKey ? undefined : KEYS[key];
    if (!name) return;
    event.preventDefault();
    if (event.repeat && WORDS[name]) return; // a key that is held down answers once
    panel.scrollIntoView({ block: "nearest" });
    act(actions[name]);
  });
  for (const button of panel.querySelectorAll("[data-do]"))
    button.addEventListener("click", () => act(actions[button.dataset.do]));
  for (const name of ["slice", "zoom"]) {
    const view = part(name);
    view.addEventListener("click", (event) => {
      const { x, y } = new DOMPoint(event.clientX, event.clientY).matrixTransform(view.getScreenCTM().inverse());
      const { width, height } = series[state.at];
      if (x >= 0 && y >= 0 && x <= width && y <= height) act(() => add(x, y));
    });
    view.addEventListener("wheel", (event) => {
      if (event.ctrlKey) return;
      event.preventDefault();
      wheel += event.deltaMode === 0 ? event.deltaY : Math.sign(event.deltaY) * PIXELS_PER_STEP;
      if (Math.abs(wheel) < PIXELS_PER_STEP) return;
      const step = Math.sign(wheel);
      wheel = 0;
      act(() => void turnTo(state.slice + step));
    }, { passive: false });
  }
  part("stack").addEventListener("input", (event) => act(() => void turnTo(event.target.valueAsNumber - 1)));
  part("reader").addEventListener("input", (event) => {
    state.reader = event.target.value.trim();
    keep(place, state);
  });
  part("series").replaceChildren(...series.map((own, at) => new Option(own.name, at)));
  part("series").parentElement.hidden = series.length === 1;
  part("series").addEventListener("change", (event) => act(() => {
    state.at = Number(event.target.value);
    const first = lesions().findIndex((one) => one.at === state.at);
    if (first >= 0) show(first);
    else turnTo(Math.floor(series[state.at].slices.length / 2));
  }));

  if (!restored(place)) {
    turnTo(Math.floor(series[0].slices.length / 2));
    show(0);
  }
  part("reader").value = state.reader;
  panel.hidden = false;
  draw();
}

// A ball of an added lesion: its square on every slice whose middle lies within half its diameter, as `cmbfe review` has it.
function boxesOf(own, { slice, x, y, diameter_mm }) {
  const [width, height] = own.spacing_mm.map((mm) => diameter_mm / mm).reverse();
  const reach = Math.floor(diameter_mm / 2 / own.slice_mm + 0.01);  // headers round spacings
  const boxes = {};
  for (let index = Math.max(slice - reach, 0); index <= slice + reach && index < own.slices.length; index++)
    boxes[index] = [x - width / 2, y - height / 2, width, height];
  return boxes;
}

// Where the patient's sides are: at the left and the upper edge, what columns and rows run away from.
function sidesOf(axes, [x, y, width, height], size) {
  const [left, top] = [...axes].map((side) => ({ L: "R", R: "L", A: "P", P: "A", S: "I", I: "S" })[side]);
  return [
    element("text", { x: x + size / 2, y: y + height / 2, "font-size": size }, left),
    element("text", { x: x + width / 2, y: y + size * 1.2, "font-size": size }, top),
  ];
}

// The middle of a lesion's box on a slice, else on its best one.
function middleOf(lesion, slice) {
  if (!lesion) return null;
  const [x, y, width, height] = lesion.boxes[slice] ?? lesion.boxes[lesion.best];
  return [x + width / 2, y + height / 2];
}

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  return made;
}

// A frame with some space around what is judged, its number and its answer.
function markOf(lesion, slice, isCurrent, size) {
  const [x, y, width, height] = lesion.boxes[slice], kind = lesion.answer ?? "open";
  const [across, down] = [width / 3 + 1, height / 3 + 1];
  const frame = { x: x - across, y: y - down, width: width + 2 * across, height: height + 2 * down };
  const label = { x: frame.x, y: frame.y - size / 4, "font-size": size };
  const of = `mark ${kind}${isCurrent ? " current" : ""}`;
  return [
    element("rect", { ...frame, class: of }),
    element("text", { ...label, class: of }, `${lesion.number}${lesion.answer ? " " + SIGNS[kind] : ""}`),
  ];
}

// The file that `cmbfe review` reads. Its checksum is over the rest, written without spaces: it tells a changed file.
function reviewText(patient, series, state) {
  const review = {
    format: "cmbfe review", version: 1, patient, reader: state.reader,
    series: series.map((own, at) => ({
      uid: own.uid, findings: own.findings,
      lesions: own.lesions.map(({ number }) => ({ lesion: number, answer: state.answers[`${at}/${number}`] })),
      added: state.added.filter((one) => one.at === at)
        .map(({ slice, x, y, diameter_mm, answer }) => ({ slice, x, y, diameter_mm, answer })),
    })),
  };
  return JSON.stringify({ ...review, checksum: crc32(JSON.stringify(review)) }, null, 1) + "\n";
}

function crc32(text) {
  let crc = -1;
  for (const byte of new TextEncoder().encode(text)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (0xedb88320 & -(crc & 1));
  }
  return (crc ^ -1) >>> 0;
}

// What a reload restores; a browser that keeps nothing still lets a review be made and saved in one go.
function restored(place) {
  try {
    return JSON.parse(localStorage.getItem(place));
  } catch {
    return null;
  }
}

function keep(place, state) {
  try {
    localStorage.setItem(place, JSON.stringify(state));
  } catch {
    // Private windows and full disks: the page works on.
  }
}

function download(name, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// The widget of `cmbfe.findings.viewer`. JupyterLab's own keys (Y makes a cell code) do not act inside it.
function render({ model, el }) {
  el.innerHTML = model.get("html");
  const panel = el.querySelector(".review");
  panel.tabIndex = 0;
  panel.setAttribute("data-lm-suppress-shortcuts", "true");
  startReview(el, panel, (name, text) => {
    model.set("saved", [name, text]);
    model.save_changes();
  });
}

export default { render };
