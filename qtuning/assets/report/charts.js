// Charts of report/charts.py, drawn by ECharts when they come into sight.

const PANEL = 300, WIDE = 620; // height of a panel, and width from which panels stand side by side
const SYMBOLS = { o: "circle", s: "rect", "^": "triangle", D: "diamond", d: "diamond", v: ["triangle", 180], "<": ["triangle", 90], ">": ["triangle", -90],
  P: "path://M4 0H6V4H10V6H6V10H4V6H0V4H4Z", X: ["path://M4 0H6V4H10V6H6V10H4V6H0V4H4Z", 45], x: ["path://M4 0H6V4H10V6H6V10H4V6H0V4H4Z", 45],
  "*": "path://M5 0L6.2 3.6H10L7 5.9L8.1 9.6L5 7.4L1.9 9.6L3 5.9L0 3.6H3.8Z", p: "roundRect", h: "roundRect", none: "none" };
const ON_DARK = { "#000000": "#e6e9ee", "#444444": "#a8b0bb", "#7F7F7F": "#a8b0bb", "#0072B2": "#58a6ff", "#D55E00": "#f0883e", "#009E73": "#3fc79a",
  "#882255": "#e07aa8", "#332288": "#a18cff", "#999933": "#c9c95a" };

const dark = matchMedia("(prefers-color-scheme: dark)");
const shade = (colour) => (dark.matches && ON_DARK[colour]) || colour;
const brief = (value) => {
  const size = Math.abs(Number(value));
  if (size >= 1e6 || (size && size < 1e-3)) return Number(value).toExponential(0).replace("e+", "e");
  return size >= 1e4 ? `${Number((value / 1000).toPrecision(3))}k` : String(Number(Number(value).toPrecision(3)));
};

// Low and high of points as one line with gaps: a bar for each point, or two curves.
function rangeOf(series) {
  const known = series.points.filter((point) => point[2] !== null && point[3] !== null).map(([x, ...rest]) => [x * (series.shift ?? 1), ...rest]);
  if (!series.band) return known.flatMap(([x, , low, high]) => [[x, low], [x, high], [x, null]]);
  return [...known.map(([x, , low]) => [x, low]), [known.at(-1)?.[0], null], ...known.map(([x, , , high]) => [x, high])];
}

function seriesOf(chart) {
  const drawn = [], dense = chart.series.some(({ points }) => points.length > 150);
  for (const series of chart.series) {
    const place = { xAxisIndex: series.panel, yAxisIndex: series.panel }, colour = shade(series.colour);
    const [symbol, symbolRotate] = [SYMBOLS[series.marker] ?? "circle"].flat();
    const common = { name: series.name, animation: false, ...place };
    if (series.points.some((point) => point[2] !== null)) // one name, one button: both come and go
      drawn.push({ ...common, type: "line", data: rangeOf(series), symbol: "none", silent: true, connectNulls: false,
        lineStyle: { color: colour, width: series.band ? 0.8 : 1.2, opacity: series.band ? 0.45 : 0.7 }, itemStyle: { color: colour } });
    const points = series.points.map(([x, y, , , words]) => ({ value: [x * (series.shift ?? 1), y], words }));
    const line = series.width > 0;
    drawn.push({ ...common, type: line ? "line" : "scatter", data: points, symbol, symbolRotate, step: series.step ? "end" : false, connectNulls: false,
      symbolSize: line || series.marker === "o" && dense ? 7 : dense ? 5 : 9, showSymbol: symbol !== "none", z: 3, emphasis: { focus: dense ? "none" : "series" },
      lineStyle: { color: colour, width: series.width * 1.5, type: series.dashes ?? "solid" },
      itemStyle: series.marker === "ring" ? { color: "transparent", borderColor: colour, borderWidth: 1.2, opacity: 0.6 } : { color: colour, opacity: dense ? 0.8 : 1 }, ...(line ? { symbolKeepAspect: true } : {}) });
  }
  return drawn;
}

function optionOf(chart, width) {
  const text = css("--text"), rule = css("--rule"), across = chart.panels.length > 1 && width >= WIDE ? 2 : 1;
  const part = 100 / across;
  const axis = ({ name, log, inverse }) => ({ type: log ? "log" : "value", name, inverse: Boolean(inverse), scale: true, nameLocation: "middle",
    nameTextStyle: { color: text, fontSize: 12 }, axisLabel: { color: text, formatter: brief, hideOverlap: true }, axisLine: { show: true, lineStyle: { color: rule } },
    splitLine: { lineStyle: { color: rule, opacity: 0.35 } }, minorTick: { show: false } });
  const at = (index) => ({ left: `${part * (index % across)}%`, top: PANEL * Math.floor(index / across) });
  const valuesOf = (index) => chart.series.filter((s) => s.panel === index).flatMap((s) => s.points.map((p) => p[0])).filter((v) => v !== null);
  const xs = chart.panels.map(({ x }, index) => {
    const found = { ...axis(x), gridIndex: index, nameGap: 26 }, values = [...new Set(valuesOf(index))];
    if (!x.log || !values.length) return found;
    const low = Math.min(...values) / 1.15, high = Math.max(...values) * 1.15;
    // ECharts labels powers of ten alone, and most of our axes are shorter
    const round = Array.from({ length: 60 }, (_, i) => [1, 2, 5][i % 3] * 10 ** (Math.floor(i / 3) + Math.floor(Math.log10(low))));
    const customValues = x.ticks ?? (values.length <= 6 ? values : round.filter((value) => value >= low && value <= high));
    return { ...found, min: low, max: high, axisTick: { customValues }, axisLabel: { ...found.axisLabel, customValues } };
  });
  return {
    animation: false,
    title: chart.panels.map(({ title }, index) => ({ text: title, left: `${part * (index % across) + 1}%`, top: at(index).top, textStyle: { color: text, fontSize: 12, fontWeight: 600 } })),
    grid: chart.panels.map((panel, index) => ({ left: `${part * (index % across) + 4200 / width}%`, top: at(index).top + 26, width: `${part - 6200 / width}%`, height: PANEL - 80, containLabel: false })),
    xAxis: xs,
    yAxis: chart.panels.map(({ y }, index) => ({ ...axis(y), gridIndex: index, nameGap: 34 })),
    legend: { show: false, data: [...new Set(chart.series.map((series) => series.name))] },
    tooltip: { trigger: "item", confine: true, transitionDuration: 0, backgroundColor: css("--back"), borderColor: rule, textStyle: { color: text, fontSize: 12 }, formatter: words },
    series: [...seriesOf(chart), ...chart.panels.flatMap(({ lines }, index) =>
      lines.map(([name, y, dashes]) => ({ type: "line", name, xAxisIndex: index, yAxisIndex: index, silent: true, animation: false, symbol: "none", data: [[Math.min(...valuesOf(index)), y]], markLine: { silent: true, symbol: "none", animation: false,
        data: [{ yAxis: y }], lineStyle: { color: shade("#444444"), type: dashes, width: 1 }, label: { position: "insideEndTop", formatter: `${name} ${brief(y)}`, color: text, fontSize: 11 } } })))],
  };
}

// an element and no HTML text
function words({ seriesName, value, data: point }) {
  const told = document.createElement("div");
  told.className = "told";
  told.textContent = point.words ?? `${seriesName}: ${brief(value[0])}, ${brief(value[1])}`;
  return told;
}

// Buttons, since a canvas has none for the keyboard. A click takes a series away or brings it back; a double click
// leaves it alone.
function legendOf(chart, box, echart) {
  const looks = new Map();
  for (const series of chart.series) if (!looks.has(series.name)) looks.set(series.name, series);
  const off = new Set(), buttons = new Map();
  const set = (name, shown) => {
    shown ? off.delete(name) : off.add(name);
    buttons.get(name).setAttribute("aria-pressed", String(shown));
    echart.dispatchAction({ type: shown ? "legendSelect" : "legendUnSelect", name });
  };
  for (const [name, series] of looks) {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    button.setAttribute("aria-pressed", "true");
    button.dataset.colour = series.colour;
    button.dataset.marker = series.marker;
    button.addEventListener("click", () => set(name, off.has(name)));
    button.addEventListener("dblclick", () => {
      const alone = off.size === looks.size - 1 && !off.has(name);
      for (const other of looks.keys()) set(other, alone || other === name);
    });
    buttons.set(name, button);
  }
  box.replaceChildren(...buttons.values());
}

// The numbers of a chart, to as many digits as the page has.
function downloadChart(name) {
  const { panels, series } = data.charts[name];
  const quoted = (text) => `"${text.replaceAll('"', '""')}"`;
  const rows = series.flatMap(({ name: label, panel, points }) => {
    const { title, x, y } = panels[panel];
    return points.map((point) => [...[title, label, x.name, y.name].map(quoted), ...point.slice(0, 4)].join(","));
  });
  const text = ["panel,series,x_name,y_name,x,y,low,high", ...rows].join("\n") + "\n";
  const link = Object.assign(document.createElement("a"), { download: `${name}.csv`, href: URL.createObjectURL(new Blob([text], { type: "text/csv" })) });
  link.click();
  URL.revokeObjectURL(link.href);
}

function drawChart(element) {
  const chart = data.charts[element.dataset.chart], box = element.nextElementSibling;
  const draw = () => {
    const width = element.clientWidth;
    const rows = Math.ceil(chart.panels.length / (chart.panels.length > 1 && width >= WIDE ? 2 : 1));
    element.style.height = `${rows * PANEL}px`;
    echart.resize();
    echart.setOption(optionOf(chart, width)); // what the legend has chosen stays
    for (const button of box.children) button.style.setProperty("--dot", shade(button.dataset.colour));
  };
  const echart = echarts.init(element, null, { renderer: "canvas" });
  legendOf(chart, box, echart);
  draw();
  new ResizeObserver(draw).observe(element);
  dark.addEventListener("change", draw);
}

function prepareCharts() {
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries)
      if (isIntersecting) {
        seen.unobserve(target);
        drawChart(target);
      }
  }, { rootMargin: "300px" });
  for (const element of document.querySelectorAll(".chart")) {
    const chart = data.charts[element.dataset.chart];
    const wide = element.clientWidth >= WIDE && chart.panels.length > 1;
    element.style.height = `${Math.ceil(chart.panels.length / (wide ? 2 : 1)) * PANEL}px`;
    seen.observe(element);
    element.closest("figure").querySelector(".download").addEventListener("click", () => downloadChart(element.dataset.chart));
  }
}
