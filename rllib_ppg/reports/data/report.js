"use strict";

const plots = [...document.querySelectorAll(".plot")];
for (const plot of plots) {
  const { data, layout } = JSON.parse(plot.nextElementSibling.textContent);
  // On a touch screen a drag scrolls the page.
  layout.dragmode = matchMedia("(pointer: coarse)").matches ? false : "zoom";
  Plotly.newPlot(plot, data, layout, { responsive: true, displayModeBar: false });
}

for (const button of document.querySelectorAll("nav button")) {
  button.addEventListener("click", () => {
    const visible = button.ariaPressed !== "true";
    button.ariaPressed = String(visible);
    for (const plot of plots) {
      const traces = plot.data.flatMap((trace, i) => (trace.meta === button.dataset.name ? [i] : []));
      if (traces.length) Plotly.restyle(plot, { visible }, traces);
    }
  });
}

for (const head of document.querySelectorAll(".sortable th")) {
  head.addEventListener("click", () => {
    const body = head.closest("table").tBodies[0];
    const key = (row) => {
      const cell = row.cells[head.cellIndex];
      return cell.dataset.key ?? cell.textContent.trim();
    };
    const order = head.ariaSort === "ascending" ? -1 : 1;
    for (const other of head.parentNode.cells) other.ariaSort = null;
    head.ariaSort = order > 0 ? "ascending" : "descending";
    const rows = [...body.rows];
    rows.sort((a, b) => order * key(a).localeCompare(key(b), undefined, { numeric: true }));
    body.append(...rows);
  });
}
