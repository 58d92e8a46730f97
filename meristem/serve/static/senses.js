// The other senses: what is said or heard in a sound, a film, a chain of residues, a policy that is told what to do.
import { dataUrl, form, json } from "./api.js";
import { area, button, el, field, guarded, number, status, tokens } from "./dom.js";
import { chosen } from "./settings.js";

const RATE = 16000;

function wav(samples) {                                        // 16 bits, one channel
  const raw = new DataView(new ArrayBuffer(44 + 2 * samples.length)), text = (at, word) => [...word].forEach((c, i) => raw.setUint8(at + i, c.charCodeAt(0)));
  text(0, "RIFF"); raw.setUint32(4, 36 + 2 * samples.length, true); text(8, "WAVEfmt "); raw.setUint32(16, 16, true);
  raw.setUint16(20, 1, true); raw.setUint16(22, 1, true); raw.setUint32(24, RATE, true); raw.setUint32(28, 2 * RATE, true);
  raw.setUint16(32, 2, true); raw.setUint16(34, 16, true); text(36, "data"); raw.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => raw.setInt16(44 + 2 * i, 32767 * Math.max(-1, Math.min(1, x)), true));
  return new Blob([raw.buffer], { type: "audio/wav" });
}

async function mono(bytes) {                                   // whatever the browser can decode, as samples at RATE
  const made = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(bytes);
  const out = new Float32Array(made.length);
  for (let c = 0; c < made.numberOfChannels; c++) made.getChannelData(c).forEach((x, i) => { out[i] += x / made.numberOfChannels; });
  return out;
}

function wave(samples) {                                       // its loudness over time
  const made = el("canvas", { class: "wave", width: 480, height: 64, role: "img", "aria-label": `a sound of ${(samples.length / RATE).toFixed(1)} seconds` });
  const pen = made.getContext("2d"), each = Math.max(1, Math.floor(samples.length / 480));
  pen.fillStyle = "#0a6b3d";
  for (let x = 0; x < 480; x++) {
    let most = 0;
    for (let i = x * each; i < Math.min((x + 1) * each, samples.length); i++) most = Math.max(most, Math.abs(samples[i]));
    pen.fillRect(x, 32 - 31 * most, 1, Math.max(1, 62 * most));
  }
  return made;
}

export function hear(panel, models) {
  const writers = models.filter(one => one.can.includes("audio.transcriptions")), namers = models.filter(one => one.can.includes("audio.zero_shot"));
  const file = el("input", { type: "file", accept: "audio/*" }), shown = el("div", {}), said = el("p", { class: "text", "aria-live": "polite", "aria-label": "Words" });
  const [writer, writerField] = chosen(writers, "Writes"), [namer, namerField] = chosen(namers, "Names"), labels = area("a dog barks\nrain"), table = el("table", { "aria-live": "polite" });
  let samples = null, recording = null;
  const show = given => { samples = given; shown.replaceChildren(wave(given)); status(`${(given.length / RATE).toFixed(1)} seconds`); };
  file.addEventListener("change", () => guarded(async () => { if (file.files[0]) show(await mono(await file.files[0].arrayBuffer())); }));

  const microphone = button("Record", () => guarded(async () => {
    if (recording) { recording.stop(); return; }
    const stream = await navigator.mediaDevices.getUserMedia({ audio: true }), pieces = [];
    recording = new MediaRecorder(stream);
    recording.ondataavailable = event => pieces.push(event.data);
    recording.onstop = () => guarded(async () => {
      stream.getTracks().forEach(track => track.stop());
      recording = null;
      microphone.textContent = "Record";
      show(await mono(await new Blob(pieces).arrayBuffer()));
    });
    recording.start();
    microphone.textContent = "Stop recording";
  }));
  const given = () => { if (!samples) throw new Error("choose or record a sound first"); return wav(samples); };

  async function write() {
    const told = new FormData();
    told.append("file", given(), "sound.wav");
    told.append("model", writer.value);
    said.textContent = (await form("/v1/audio/transcriptions", told)).text || "(nothing)";
    status("Heard.");
  }
  async function name() {
    const words = labels.value.split("\n").map(one => one.trim()).filter(Boolean);
    const { data } = await json("/v1/audio/zero-shot", { model: namer.value, audio: await dataUrl(given()), labels: words });
    table.replaceChildren(...data.map(({ label, score }) => el("tr", {}, el("th", { scope: "row" }, label),
      el("td", {}, el("meter", { min: 0, max: 1, value: score, "aria-label": label })), el("td", {}, `${(100 * score).toFixed(1)} %`))));
  }
  panel.append(el("div", { class: "row" }, field("Sound", file), microphone), shown,
    writers.length ? el("div", {}, el("div", { class: "row" }, writerField, button("What is said?", () => guarded(write), "main")), said) : "",
    namers.length ? el("div", {}, el("h2", {}, "Which words fit?"), namerField, field("Labels, one a line", labels, true), button("Name it", () => guarded(name)), table) : "");
}

export function films(panel, models) {
  const [model, modelField] = chosen(models), words = el("input", { placeholder: "a red circle moving right", size: 40 });
  const steps = number(20, 1, 250), guidance = number(3, 0, 50, 0.5), seed = number(0, 0, 2 ** 31), first = el("input", { type: "file", accept: "image/*" });
  const screen = el("img", { class: "film", alt: "the film" }), at = el("input", { type: "range", min: 0, max: 0, value: 0 }), save = el("a", { download: "film.gif" }, "Save as GIF");
  let frames = [], playing = 0;
  const show = n => { at.value = n; screen.src = frames[n]; status(`frame ${n + 1} of ${frames.length}`); };
  const play = button("Play", () => {
    if (playing) { clearInterval(playing); playing = 0; play.textContent = "Play"; return; }
    if (!frames.length) return;
    play.textContent = "Pause";
    playing = setInterval(() => show((+at.value + 1) % frames.length), 100);
  });
  at.addEventListener("input", () => { if (frames.length) show(+at.value); });
  const player = el("div", { hidden: true }, screen, el("div", { class: "row" }, play, field("Frame", at), save));

  async function paint() {
    status("Painting ...");
    const body = { model: model.value, prompt: words.value, steps: +steps.value, guidance: +guidance.value, seed: +seed.value };
    if (first.files[0]) body.image = await dataUrl(first.files[0]);
    const told = await json("/v1/films", body);
    frames = told.frames;
    at.max = frames.length - 1;
    save.href = told.gif;
    player.hidden = false;
    show(0);
  }
  panel.append(el("div", { class: "row" }, modelField, field("Words", words), field("First frame", first)),
    el("div", { class: "row" }, field("Steps", steps), field("Guidance", guidance), field("Seed", seed)), button("Paint a film", () => guarded(paint), "main"), player);
}

export function proteins(panel, models) {
  const [model, modelField] = chosen(models), chain = area("MKTAYIAKQR", "code"), out = el("p", { class: "text code", "aria-label": "Residues" });
  async function run() {
    const { data } = await json("/v1/residues", { model: model.value, input: chain.value });
    tokens(out, data.map(one => ({ text: one.residue, logprob: one.logprob, instead: one.likeliest })), true);
    const mean = data.reduce((sum, one) => sum + one.logprob, 0) / data.length;
    status(`${data.length} residues, perplexity ${Math.exp(-mean).toFixed(2)}`);
  }
  panel.append(modelField, field("Chain", chain, true), button("Colour by likelihood", () => guarded(run), "main"), out,
    el("p", { class: "quiet" }, "Each residue is masked alone; green is what the model expects there, red what it does not."));
}

export function act(panel, models) {
  const [model, modelField] = chosen(models), words = el("input", { size: 40 }), seed = number(0, 0, 2 ** 31 - 1), unseen = el("input", { type: "checkbox" });
  const screen = el("img", { class: "film", alt: "the world" }), story = el("ol", { "aria-live": "polite" });
  let world = null, running = false;
  async function begin() {
    world = await json(`/v1/world?seed=${+seed.value}&unseen=${unseen.checked}`);
    words.value = world.instruction;
    screen.src = world.frame;
    story.replaceChildren();
    status("A new world.");
  }
  async function step() {
    const { size, things, at } = world, told = await json("/v1/act", { model: model.value, instruction: words.value, size, things, at });
    world.at = told.at;
    screen.src = told.frame;
    const [right, down] = told.action.map(Math.round);
    story.append(el("li", {}, told.over ? (told.success ? "stops: it is there" : "stops: it is elsewhere") : `right ${right}, down ${down}`));
    return told.over;
  }
  const go = button("Go", () => guarded(async () => {
    if (running) { running = false; return; }
    running = true;
    go.textContent = "Stop";
    try { for (let n = 0; running && n < 2 * world.size && !(await step()); n++) await new Promise(good => setTimeout(good, 150)); }
    finally { running = false; go.textContent = "Go"; status("It has stopped."); }
  }), "main");
  panel.append(el("div", { class: "row" }, modelField, field("Seed", seed), field("A thing that no demonstration showed", unseen), button("New world", () => guarded(begin))),
    screen, el("div", { class: "row" }, field("Instruction", words), go, button("One step", () => guarded(step))), story);
  panel.addEventListener("opened", () => { if (!world) guarded(begin); });
}
