"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const make = (tag, attributes = {}, text = "") => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.textContent = text;
  return element;
};
const percent = share => `${(100 * share).toFixed(share < 0.0995 ? 1 : 0)} %`;

// What is shown: a layer and head, and the place among the rows of the token that looks.
const state = { layer: data.layers.length - 1, head: 0, row: data.rows.length - 1 };

// Shares of each row, from weights in two hexadecimal digits; kept once computed.
const decoded = new Map();
const sharesOf = sentence => {
  const key = `${state.layer} ${state.head} ${sentence}`;
  if (!decoded.has(key)) {
    const map = data.layers[state.layer].maps[sentence][state.head];
    const length = data.sentences[sentence].words.length;
    decoded.set(key, data.rows.map((_, row) => {
      const weights = Array.from({ length }, (_, at) => {
        const place = 2 * (row * length + at);
        return Math.abs(parseInt(map.hex.slice(place, place + 2), 16) - (map.signed ? 127 : 0));
      });
      const total = weights.reduce((sum, weight) => sum + weight, 0) || 1;
      return weights.map(weight => weight / total);
    }));
  }
  return decoded.get(key);
};

// A group of buttons of which one is chosen: arrow keys, Home and End go through it.
const walk = (group, buttons, choose) => group.addEventListener("keydown", event => {
  const at = buttons().indexOf(document.activeElement);
  const to = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: buttons().length - 1 }[event.key];
  if (at < 0 || to === undefined || !buttons()[to]) return;
  event.preventDefault();
  choose(buttons()[to]);
  buttons()[to].focus();
});

const headButtons = [];
const heads = document.getElementById("heads");
heads.setAttribute("role", "radiogroup");
heads.setAttribute("aria-label", "Layer and head");
data.layers.forEach((layer, place) => {
  const row = heads.appendChild(make("div", { class: "layer" }));
  row.append(make("span", { class: "name" }, `layer ${layer.layer}: ${layer.name}`));
  layer.heads.forEach((head, at) => {
    const label = layer.channels ? `layer ${layer.layer}, mean over channels` : `layer ${layer.layer}, head ${head}`;
    const button = make("button", { type: "button", role: "radio", "aria-label": label }, layer.channels ? "mean of channels" : head);
    Object.assign(button.dataset, { layer: place, head: at });
    headButtons.push(row.appendChild(button));
  });
});
const chooseHead = button => {
  Object.assign(state, { layer: +button.dataset.layer, head: +button.dataset.head });
  draw();
};
heads.addEventListener("click", event => event.target.dataset.head && chooseHead(event.target));
walk(heads, () => headButtons, chooseHead);

const differs = at => data.sentences.length > 1 && data.sentences[0].tokens[at] !== data.sentences[1].tokens[at];
const views = data.sentences.map((sentence, number) => {
  const box = document.getElementById("sentences").appendChild(make("div", { class: "sentence" }));
  box.append(make("h3", {}, data.sentences.length > 1 ? `Sentence ${number + 1}` : "The sequence"));
  const words = box.appendChild(make("div", { class: "words", role: "listbox", "aria-label": `tokens of sentence ${number + 1}` }));
  const arcs = words.appendChild(document.getElementById("arcs").content.firstElementChild.cloneNode());
  const noun = at => sentence.marks.some(mark => mark.name.endsWith("noun") && mark.position === at);
  const tokens = sentence.words.map((word, at) => {
    const kind = `token${noun(at) ? " noun" : ""}${differs(at) ? " differs" : ""}`;
    const token = make("button", { type: "button", role: "option", class: kind, title: `token ${at}` }, word.trim() || "␣");
    token.dataset.row = data.rows.indexOf(at);
    token.disabled = data.rows.indexOf(at) < 0;
    token.append(make("i"));
    words.append(token, " ");
    return token;
  });
  const told = box.appendChild(make("p", { class: "told", "aria-live": "polite" }));
  for (const answer of sentence.answers.slice(0, 8)) {
    const right = answer.target === null ? "" : answer.target === answer.said ? ", which is right" : `; right is “${answer.target}”`;
    box.append(make("p", { class: "answer soft" }, `Behind token ${answer.position} the model says “${answer.said}” (${percent(answer.probability)})${right}.`));
  }
  const heat = box.appendChild(make("div", { class: "heat" }));
  const label = `heat map of sentence ${number + 1}: the tokens that look down, those looked at across`;
  const canvas = heat.appendChild(make("canvas", { width: sentence.words.length, height: data.rows.length, role: "img", "aria-label": label }));
  const frame = heat.appendChild(make("div"));
  const choose = token => { state.row = +token.dataset.row; draw(); };
  const chosen = event => {
    const token = event.target.closest(".token:not([disabled])");
    if (token && +token.dataset.row !== state.row) choose(token);
  };
  words.addEventListener("mouseover", chosen);
  words.addEventListener("click", chosen);
  walk(words, () => tokens.filter(token => !token.disabled), choose);
  const pointed = event => {
    const { top, height } = canvas.getBoundingClientRect();
    const row = Math.floor((event.clientY - top) / height * data.rows.length);
    if (row !== state.row && row >= 0 && row < data.rows.length) { state.row = row; draw(); }
  };
  canvas.addEventListener("pointermove", pointed);
  canvas.addEventListener("pointerdown", pointed);
  return { sentence, words, arcs, tokens, told, canvas, frame };
});

const drawTokens = ({ sentence, tokens, told }, shares, number) => {
  const from = data.rows[state.row];
  const delta = data.layers[state.layer].delta?.[number];
  const most = delta ? Math.max(...delta) : 1;
  tokens.forEach((token, at) => {
    token.style.setProperty("--share", (0.85 * shares[at]).toFixed(3));
    token.style.setProperty("--delta", delta ? (delta[at] / most).toFixed(3) : 0);
    token.setAttribute("aria-selected", at === from);
    token.tabIndex = at === from ? 0 : -1;
  });
  const order = shares.map((share, at) => [share, at]).filter(([share]) => share > 0.005).sort((a, b) => b[0] - a[0]).slice(0, 5);
  const list = order.map(([share, at]) => `“${sentence.words[at].trim()}” (${at}) ${percent(share)}`).join(", ");
  told.textContent = `“${sentence.words[from].trim()}” (${from}) takes ${list || "nothing"}.`;
};

const drawArcs = ({ words, arcs, tokens }, shares) => {
  const frame = words.getBoundingClientRect();
  const top = token => {
    const box = token.getBoundingClientRect();
    return [box.left + box.width / 2 - frame.left, box.top - frame.top];
  };
  const from = data.rows[state.row], [x, y] = top(tokens[from]);
  arcs.replaceChildren(...shares.flatMap((share, at) => {
    if (share < 0.02 || at === from) return [];
    const [to, height] = top(tokens[at]);
    const over = Math.min(y, height) - Math.min(26, 8 + Math.abs(to - x) / 8);
    const path = document.createElementNS(arcs.namespaceURI, "path");
    path.setAttribute("d", `M${x} ${y}C${x} ${over} ${to} ${over} ${to} ${height}`);
    path.setAttribute("stroke-width", (0.5 + 3.5 * share).toFixed(2));
    path.setAttribute("stroke-opacity", (0.25 + 0.75 * share).toFixed(2));
    return [path];
  }));
};

// Cividis, which reads alike with and without colour blindness, as in the report.
const colours = [[0, 34, 78], [18, 53, 112], [59, 73, 108], [87, 93, 109], [112, 113, 115], [138, 134, 120], [165, 156, 116], [195, 179, 105], [225, 204, 85], [254, 232, 56]];
const drawHeat = ({ canvas, frame }, shares) => {
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  shares.flat().forEach((share, pixel) => {
    const [red, green, blue] = colours[Math.min(9, Math.floor(10 * share))];
    image.data.set([red, green, blue, share > 0 ? 255 : 0], 4 * pixel);
  });
  context.putImageData(image, 0, 0);
  canvas.style.height = `${Math.min(canvas.clientWidth * canvas.height / canvas.width, 600) || 120}px`;
  frame.style.top = `${100 * state.row / canvas.height}%`;
  frame.style.height = `${100 / canvas.height}%`;
};

const draw = () => {
  for (const button of headButtons) {
    const on = +button.dataset.layer === state.layer && +button.dataset.head === state.head;
    button.setAttribute("aria-checked", on);
    button.tabIndex = on ? 0 : -1;
  }
  document.getElementById("delta-note").hidden = !data.layers[state.layer].delta;
  views.forEach((view, number) => {
    const shares = sharesOf(number);
    drawTokens(view, shares[state.row], number);
    drawHeat(view, shares);
    drawArcs(view, shares[state.row]);
  });
};
addEventListener("resize", draw);
draw();

if (data.patching) {
  const words = data.sentences[1].words, table = document.getElementById("patched");
  document.getElementById("patching").hidden = false;
  const head = table.appendChild(make("thead")).appendChild(make("tr"));
  head.append(make("th", { scope: "col" }, "before layer"), ...words.map(word => make("th", { scope: "col" }, word)));
  const body = table.appendChild(make("tbody"));
  data.patching.forEach((turned, layer) => {
    const row = body.appendChild(make("tr"));
    row.append(make("th", { scope: "row" }, layer < data.names.length ? `${layer} ${data.names[layer]}` : "behind the last"));
    for (const part of turned) {
      const share = Math.max(0, Math.min(1, part));
      row.append(make("td", { style: `--share: ${(0.85 * share).toFixed(3)}` }, Math.round(100 * part).toString()));
    }
  });
}
