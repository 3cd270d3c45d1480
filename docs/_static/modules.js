// The table of modules can be filtered by words, family and need of a closure; without this script all of it is there.
document.addEventListener("DOMContentLoaded", () => {
  const table = document.querySelector("table.modules");
  if (!table) return;
  const rows = [...table.tBodies[0].rows];
  const cell = (row, i) => row.cells[i].textContent.trim();
  const bar = document.createElement("div");
  bar.className = "filter";
  const words = Object.assign(document.createElement("input"), {
    type: "search", placeholder: "Filter: momentum, Hessian, Nesterov, 2023 …",
  });
  words.setAttribute("aria-label", "Filter the modules");
  const choice = (label, values) => {
    const select = document.createElement("select");
    select.setAttribute("aria-label", label);
    for (const [text, value] of [[label, ""], ...values]) select.add(new Option(text, value));
    return select;
  };
  const family = choice("every family", [...new Set(rows.map((row) => cell(row, 0)))].map((name) => [name, name]));
  const closure = choice("closure or not", [["no closure", "no"], ["needs a closure", "yes"], ["depends", "depends"]]);
  const count = document.createElement("output");
  const show = () => {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      const fits = wanted.every((word) => text.includes(word)) &&
        (!family.value || cell(row, 0) === family.value) && (!closure.value || cell(row, 3) === closure.value);
      row.hidden = !fits;
      row.style.display = fits ? "" : "none";
      shown += fits;
    }
    count.textContent = `${shown} of ${rows.length}`;
  };
  for (const one of [words, family, closure]) one.addEventListener("input", show);
  bar.append(words, family, closure, count);
  (table.closest(".table-wrapper") || table).before(bar);
  show();
});
