"use strict";
// Sort a table by a column: click its heading, or focus it and press Enter or Space; again to reverse the order.
const sortValue = (cell) => {
  const text = cell.dataset.value ?? cell.textContent;
  return text === "" ? null : cell.classList.contains("number") ? Number(text) : text;
};
const compare = (a, b) =>
  typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  const body = table.tBodies[0];
  headings.forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      // Figures first from the greatest, texts from A.
      const figures = heading.classList.contains("number");
      const before = heading.getAttribute("aria-sort");
      const order = before === "none" ? (figures ? "descending" : "ascending") : before === "ascending" ? "descending" : "ascending";
      for (const other of headings) other.setAttribute("aria-sort", other === heading ? order : "none");
      const rows = [...body.rows].map((row) => [sortValue(row.cells[column]), row]);
      rows.sort(([a], [b]) => {
        if (a === null || b === null) return (a === null) - (b === null); // what is not known comes last
        return order === "ascending" ? compare(a, b) : compare(b, a);
      });
      body.append(...rows.map(([, row]) => row));
    });
  });
}

// What is folded away on a screen is open on paper.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not([open])")) {
    details.open = true;
    details.dataset.printed = "";
  }
});
addEventListener("afterprint", () => {
  for (const details of document.querySelectorAll("details[data-printed]")) {
    details.open = false;
    delete details.dataset.printed;
  }
});
