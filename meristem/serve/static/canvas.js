// A picture on a canvas that is pointed at with a mouse, a finger or the arrow keys.
import { el } from "./dom.js";

export function canvas(name, act) {    // act(x, y, {first, other}) in pixels of the picture
  const made = el("canvas", { tabIndex: 0, width: 256, height: 256, role: "img", "aria-label": `${name}: arrow keys move, space acts, Shift for the other way` });
  const at = { x: 128, y: 128 }, pen = made.getContext("2d");
  let picture = null, over = () => {}, down = false;

  function draw(ring = false) {
    pen.clearRect(0, 0, made.width, made.height);
    if (picture) pen.drawImage(picture, 0, 0);
    over(pen);
    if (!ring) return;
    pen.strokeStyle = "#0a6b3d";
    pen.lineWidth = Math.max(1, made.width / 128);
    pen.beginPath();
    pen.arc(at.x, at.y, made.width / 32, 0, 7);
    pen.stroke();
  }
  const place = event => {
    const box = made.getBoundingClientRect();
    return [(event.clientX - box.left) * made.width / box.width, (event.clientY - box.top) * made.height / box.height];
  };
  made.addEventListener("pointerdown", event => { down = true; made.setPointerCapture(event.pointerId); act(...place(event), { first: true, other: event.shiftKey }); draw(); });
  made.addEventListener("pointermove", event => { if (down) { act(...place(event), { first: false, other: event.shiftKey }); draw(); } });
  made.addEventListener("pointerup", () => { down = false; });
  made.addEventListener("keydown", event => {
    const step = made.width / 32, move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    if (move) {
      at.x = Math.min(made.width - 1, Math.max(0, at.x + move[0]));
      at.y = Math.min(made.height - 1, Math.max(0, at.y + move[1]));
    } else if (event.key === " ") act(at.x, at.y, { first: true, other: event.shiftKey });
    else return;
    event.preventDefault();
    draw(true);
  });
  return {
    made, draw, over: painter => { over = painter; draw(); },
    async show(url) {
      const image = new Image();
      image.src = url;
      await image.decode();
      picture = image;
      made.width = image.naturalWidth;
      made.height = image.naturalHeight;
      at.x = made.width / 2;
      at.y = made.height / 2;
      draw();
    },
    url: () => {
      const plain = el("canvas", { width: made.width, height: made.height });
      plain.getContext("2d").drawImage(picture, 0, 0);
      return plain.toDataURL();
    },
    ready: () => picture !== null };
}
