"use strict";
(() => {
  const table = document.getElementById("claims-table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const headings = [...table.querySelectorAll("thead th")];
  const field = (id) => document.getElementById(id);
  const search = field("search"), figure = field("by-figure"), verdict = field("by-verdict");
  const order = field("order"), shown = field("shown");
  const texts = new Map(rows.map((row) => [row, row.textContent.toLowerCase().replace(/\s+/g, " ")]));

  const filter = () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let count = 0;
    for (const row of rows) {
      const fits = (!figure.value || row.dataset.figure === figure.value)
        && (!verdict.value || row.dataset.verdict === verdict.value)
        && words.every((word) => texts.get(row).includes(word));
      row.hidden = !fits;
      count += fits;
    }
    shown.textContent = `${count} of ${rows.length} claim${rows.length === 1 ? "" : "s"} shown`;
  };

  // Cells without a value stand last in both directions.
  const sort = (column, descending) => {
    const numeric = headings[column].hasAttribute("data-numeric");
    const value = (row) => row.cells[column].dataset.sort ?? "";
    const compare = (a, b) => {
      const x = value(a), y = value(b);
      if (x === "" || y === "") return (x === "") - (y === "");
      const sign = numeric ? Number(x) - Number(y) : x.localeCompare(y, "en", { numeric: true });
      return descending ? -sign : sign;
    };
    body.append(...[...rows].sort(compare));
    headings.forEach((heading, place) => {
      const direction = descending ? "descending" : "ascending";
      heading.setAttribute("aria-sort", place === column ? direction : "none");
    });
    order.value = String(column);
  };

  headings.forEach((heading, column) => {
    heading.querySelector("button").addEventListener("click", () => {
      sort(column, heading.getAttribute("aria-sort") === "ascending");
    });
  });
  order.addEventListener("change", () => sort(Number(order.value), false));
  search.addEventListener("input", filter);
  figure.addEventListener("change", filter);
  verdict.addEventListener("change", filter);
  field("reset").addEventListener("click", () => {
    search.value = figure.value = verdict.value = "";
    filter();
  });
  for (const button of document.querySelectorAll("button[data-claims]")) {
    button.addEventListener("click", () => {
      search.value = verdict.value = "";
      figure.value = button.dataset.claims;
      filter();
      field("claims").scrollIntoView();
      figure.focus({ preventScroll: true });
    });
  }
  for (const button of document.querySelectorAll("button[data-open]")) {
    button.addEventListener("click", () => {
      const parts = [...field(button.dataset.open).querySelectorAll("details")];
      const open = parts.some((part) => !part.open);
      for (const part of parts) part.open = open;
      button.textContent = open ? "Close all" : "Open all";
    });
  }
  for (const hidden of document.querySelectorAll(".scripted")) hidden.hidden = false;
  filter();

  // Paper has no way to open what is closed.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    for (const part of closed) part.open = true;
  });
  addEventListener("afterprint", () => {
    for (const part of closed) part.open = false;
  });
})();
