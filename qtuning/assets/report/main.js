// The page of a report: tables are in the document, charts and what scores say are in one block of JSON.

const css = (name) => getComputedStyle(document.body).getPropertyValue(name).trim();
const data = JSON.parse(document.getElementById("data").textContent);
prepareTables();
prepareCharts();
document.body.dataset.ready = "";
