"use strict";
// The filter of the gallery; without it the page says the same, unfiltered.
(() => {
  const find = (id) => document.getElementById(id);
  const data = find("issues");
  if (!data) return;
  const rows = JSON.parse(data.textContent);
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
})();
