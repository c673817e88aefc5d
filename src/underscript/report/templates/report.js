"use strict";
// Folding, the filter of the gallery, and its review; without them the page says the same.
const find = (id) => document.getElementById(id);

// A link leads into a folded part, which must be open; on paper all are.
(() => {
  const folds = [...document.querySelectorAll("details")];
  const reveal = (id) => {
    const target = id && find(decodeURIComponent(id));
    if (!target) return;
    let closed = false;
    for (let part = target.closest("details"); part; part = part.parentElement.closest("details")) {
      closed ||= !part.open;
      part.open = true;
    }
    if (closed) target.scrollIntoView();
  };
  addEventListener("hashchange", () => reveal(location.hash.slice(1)));
  for (const link of document.querySelectorAll("a[href^='#']")) {
    // The hash stays the same on a second click.
    link.addEventListener("click", () => reveal(link.hash.slice(1)));
  }
  reveal(location.hash.slice(1));

  let before = null;
  addEventListener("beforeprint", () => {
    before ??= folds.map((part) => part.open);
    for (const part of folds) part.open = true;
  });
  addEventListener("afterprint", () => {
    folds.forEach((part, at) => { part.open = before === null || before[at]; });
    before = null;
  });

  const all = find("unfold");
  if (!all) return;
  all.addEventListener("click", () => {
    const open = all.getAttribute("aria-pressed") !== "true";
    for (const part of document.querySelectorAll(".fold")) part.open = open;
    all.setAttribute("aria-pressed", String(open));
    all.textContent = open ? "Fold everything below" : "Open everything below";
  });
  find("folding").hidden = false;
})();

// Calls `changed` whenever other cards are shown.
const filter = (changed) => {
  const rows = JSON.parse(find("issues").textContent);
  const given = find("given"), proposed = find("proposed"), csv = find("csv"), copy = find("copy");
  const cards = document.querySelectorAll("#gallery > li");
  const fits = (a, b) => (given.value === "" || given.value === String(a)) &&
    (proposed.value === "" || proposed.value === String(b));

  const show = () => {
    let seen = 0;
    for (const card of cards) {
      card.hidden = !fits(card.dataset.given, card.dataset.proposed);
      seen += card.hidden ? 0 : 1;
    }
    const found = rows.filter((row) => fits(row[1], row[2]));
    find("count").textContent = `${seen} of ${found.length.toLocaleString("en")} shown`;
    if (find("none")) find("none").hidden = seen > 0;
    csv.value = "index,given_label,predicted_label,label_quality\n" +
      found.map((row) => `${row[0]},${row[1]},${row[2]},${row[3] / 1000}\n`).join("");
    changed();
  };

  given.addEventListener("change", show);
  proposed.addEventListener("change", show);
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(csv.value);
    } catch {
      csv.select();
      document.execCommand("copy");
    }
    copy.textContent = "Copied";
    setTimeout(() => { copy.textContent = "Copy"; }, 1500);
  });
  find("tools").hidden = copy.hidden = false;
  show();
};

// A person decides about the samples of the gallery, one after the other. Returns what to do when
// other cards are shown.
const review = () => {
  const panel = find("review"), area = find("reviewing"), label = find("label");
  const cards = [...document.querySelectorAll("#gallery > li")];
  const names = [...label.options].map((option) => option.textContent);
  const byIndex = new Map(cards.map((card) => [card.dataset.index, card]));
  const key = `underscript-review-${panel.dataset.key}`;
  const word = { keep: "kept", change: "→ ", skip: "skipped" };
  let current = null;
  // Every decision in its order, so that each can be undone; the last one of a sample counts.
  let history = [];

  const isDecision = (entry) => Array.isArray(entry) && byIndex.has(entry[0]) &&
    Object.hasOwn(word, entry[1]) && (entry[1] !== "change" || names[entry[2]] !== undefined);
  try {
    const kept = JSON.parse(localStorage.getItem(key));
    if (Array.isArray(kept)) history = kept.filter(isDecision);
  } catch { /* No storage here: the review lasts as long as the page. */ }
  const keep = () => {
    try {
      localStorage.setItem(key, JSON.stringify(history));
    } catch { /* As above. */ }
  };

  const decisions = () => new Map(history.map((entry) => [entry[0], entry]));

  const show = () => {
    const decided = decisions();
    for (const card of cards) {
      const entry = decided.get(card.dataset.index), mark = card.querySelector(".decided");
      mark.hidden = !entry;
      mark.textContent = !entry ? "" : word[entry[1]] + (entry[1] === "change" ? names[entry[2]] : "");
      card.dataset.decision = entry ? entry[1] : "";
      if (card === current) card.setAttribute("aria-current", "true");
      else card.removeAttribute("aria-current");
    }
    find("bar").value = decided.size;
    const end = decided.size === cards.length ? ": export the review" : "";
    find("progress").textContent = `${decided.size} of ${cards.length} reviewed${end}`;
    find("export").disabled = decided.size === 0;
  };

  const moveTo = (card) => {
    current = card ?? null;
    const sample = find("sample"), asked = find("asked");
    sample.replaceChildren();
    asked.textContent = "No sample has these classes.";
    if (current) {
      sample.append(current.querySelector(".shown").cloneNode(true));
      const { index, given, proposed } = current.dataset;
      const entry = decisions().get(index);
      const done = entry ? ` (${current.querySelector(".decided").textContent || "decided"})` : "";
      asked.textContent = `No. ${index}: given ${names[given]}, proposed ${names[proposed]}${done}`;
      for (const option of label.options) option.disabled = option.value === given;
      label.value = entry && entry[1] === "change" ? String(entry[2]) : proposed;
    }
    show();
    const box = current?.getBoundingClientRect();
    // Only if a part of the gallery is in view: a page that has just opened stays at its top.
    if (box && area.contains(document.activeElement)) {
      const covered = getComputedStyle(panel).position === "sticky" ? panel.offsetHeight : 0;
      if (covered && box.top < covered) scrollBy(0, box.top - covered - 8);
      else if (covered && box.bottom > innerHeight) scrollBy(0, box.bottom - innerHeight + 8);
    }
  };

  const seen = () => cards.filter((card) => !card.hidden);
  const step = (by) => {
    const those = seen(), at = those.indexOf(current) + by;
    if (those[at]) moveTo(those[at]);
  };
  // To the next sample without a decision, from the first again after the last.
  const onwards = () => {
    const those = seen(), at = those.indexOf(current), decided = decisions();
    const rest = [...those.slice(at + 1), ...those.slice(0, at + 1)];
    moveTo(rest.find((card) => !decided.has(card.dataset.index)) ?? current);
  };
  const decide = (decision, to) => {
    if (!current) return;
    const { index, given } = current.dataset;
    if (decision === "change" && String(to) === given) decision = "keep";
    history.push(decision === "change" ? [index, decision, Number(to)] : [index, decision]);
    keep();
    show();
    onwards();
  };
  const undo = () => {
    const last = history.pop();
    if (!last) return;
    keep();
    show();
    moveTo(byIndex.get(last[0]));
  };

  // A field of a CSV file, which a spreadsheet must not take for a formula.
  const field = (text) => {
    const safe = /^[=+\-@\t\r\n＝＋－＠]/u.test(text) ? `'${text}` : text;
    return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const asCSV = () => {
    const named = "named" in panel.dataset, decided = decisions();
    const head = ["index", "given_label", "decision", "label"];
    const lines = [named ? [...head, "given_name", "label_name"] : head];
    for (const card of cards) {
      const entry = decided.get(card.dataset.index), { index, given } = card.dataset;
      if (!entry) continue;
      const to = { keep: given, change: String(entry[2]), skip: "" }[entry[1]];
      const words = [names[given], to === "" ? "" : names[to]].map(field);
      lines.push([index, given, entry[1], to, ...(named ? words : [])]);
    }
    const text = lines.map((line) => `${line.join(",")}\n`).join("");
    // Spreadsheets read a file as UTF-8 only with a mark; ASCII needs none.
    return (/[^\0-\x7f]/.test(text) ? "\ufeff" : "") + text;
  };
  find("export").addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([asCSV()], { type: "text/csv" }));
    link.download = "review.csv";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });

  const actions = {
    back: () => step(-1), next: () => step(1), undo,
    keep: () => decide("keep"), skip: () => decide("skip"),
    change: () => decide("change", label.value),
  };
  const keys = {
    arrowleft: "back", arrowright: "next", k: "keep", c: "change", s: "skip", u: "undo",
  };
  for (const button of panel.querySelectorAll("[data-do]")) {
    button.addEventListener("click", actions[button.dataset.do]);
  }
  // Keys count only while the review has the focus, so that they take nobody else's.
  area.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target === label) return;
    const action = keys[event.key.toLowerCase()];
    const digit = names.length <= 10 && /^\d$/.test(event.key) && names[event.key] !== undefined;
    if (action) actions[action]();
    else if (digit) decide("change", event.key);
    else return;
    event.preventDefault();
  });
  find("gallery").addEventListener("click", (event) => {
    const card = event.target.closest("li");
    if (!card) return;
    panel.focus({ preventScroll: true });
    moveTo(card);
    if (panel.getBoundingClientRect().bottom < 0) panel.scrollIntoView();
  });
  panel.hidden = false;
  show();
  return () => {
    if (!current || current.hidden) {
      const decided = decisions(), those = seen();
      moveTo(those.find((card) => !decided.has(card.dataset.index)) ?? those[0]);
    }
  };
};

if (find("issues")) filter(find("review") ? review() : () => {});
