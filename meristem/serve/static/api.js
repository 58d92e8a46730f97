// What the page asks of the server: same origin, the key of the field above, one line for each error.

const key = () => document.getElementById("key").value.trim();
const headers = () => (key() ? { authorization: `Bearer ${key()}` } : {});

export async function ask(path, body, signal) {
  const given = body === undefined ? { headers: headers(), signal } : {
    method: "POST", signal, headers: { ...headers(), "content-type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, given);
  if (!answer.ok) throw new Error(await problem(answer));
  seen(answer);
  return answer;
}

export const json = async (path, body, signal) => (await ask(path, body, signal)).json();

export async function form(path, fields) {                    // files go as a form
  const answer = await fetch(path, { method: "POST", headers: headers(), body: fields });
  if (!answer.ok) throw new Error(await problem(answer));
  seen(answer);
  return answer.json();
}

export async function* stream(path, body, signal) {            // the objects of server-sent events until [DONE]
  const answer = await ask(path, { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.split("\n").filter(line => line.startsWith("data:")).map(line => line.slice(5).trim()).join("\n");
        if (data === "[DONE]") return;
        if (!data) continue;
        const told = JSON.parse(data);
        if (told.error) throw new Error(told.error.message);
        yield told;
      }
    }
  } finally { reader.cancel().catch(() => {}); }
}

function seen(answer) {
  const run = answer.headers.get("x-meristem-run");
  if (!run) return;
  const parts = ["run", "checkpoint", "corpus"].map(one => `${one} ${answer.headers.get(`x-meristem-${one}`) || "unknown"}`);
  document.getElementById("identity").textContent = `Last answer: ${parts.join(", ")}.`;
}

async function problem(answer) {
  let text = `${answer.status} ${answer.statusText}`;
  try { text = (await answer.json()).error.message; } catch { /* not ours: the status must do */ }
  if (answer.status === 401) return `${text} (give the key above)`;
  const wait = answer.headers.get("retry-after");
  return wait ? `${text} (again in ${wait} s)` : text;
}

export const dataUrl = file => new Promise((good, bad) => {
  const reader = new FileReader();
  reader.onload = () => good(reader.result);
  reader.onerror = () => bad(new Error(`${file.name} could not be read`));
  reader.readAsDataURL(file);
});
