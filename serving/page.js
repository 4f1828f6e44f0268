const drop = document.getElementById("drop");
const input = document.getElementById("file");
const state = document.getElementById("state");
const answer = document.getElementById("answer");

function addFigure(source, caption) {
  const figure = document.createElement("figure");
  const image = document.createElement("img");
  image.src = source;
  image.alt = caption;
  const text = document.createElement("figcaption");
  text.textContent = caption;
  figure.append(image, text);
  answer.append(figure);
}

function addTable(row) {
  const table = document.createElement("table");
  row.classes.forEach((name, i) => {
    const line = table.insertRow();
    line.insertCell().textContent = name;
    const meter = document.createElement("meter");
    meter.value = row.probabilities[i];
    line.insertCell().append(meter);
    line.insertCell().textContent = (100 * row.probabilities[i]).toFixed(1) + " %";
  });
  answer.append(table);
}

async function send(path, file) {
  const reply = await fetch(path, {method: "POST", body: file, headers: {"Content-Type": "image/*"}});
  if (!reply.ok) throw new Error((await reply.json()).error);
  return reply;
}

async function ask(file) {
  answer.replaceChildren();
  state.className = "";
  state.textContent = "asking …";
  try {
    const row = await (await send("v1/models/alexnet:predict", file)).json();
    addFigure(URL.createObjectURL(file), file.name || "picture");
    addTable(row);
    state.textContent = "looking where the network looks …";
    const reply = await send("explain", file);
    const cost = reply.headers.get("X-Falls");
    addFigure(URL.createObjectURL(await reply.blob()), "In colour: what the first class depends on; " + cost + ".");
    state.textContent = "";
  } catch (error) {
    state.className = "error";
    state.textContent = error.message;
  }
}

input.addEventListener("change", () => input.files[0] && ask(input.files[0]));
drop.addEventListener("dragover", (event) => { event.preventDefault(); drop.className = "over"; });
drop.addEventListener("dragleave", () => { drop.className = ""; });
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.className = "";
  if (event.dataTransfer.files[0]) ask(event.dataTransfer.files[0]);
});
