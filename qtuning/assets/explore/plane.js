// The Error-Uncertainty plane, drawn by ECharts on a canvas.

const LARGE = 1500; // points of one colour, from which ECharts draws them in one go
let chart;

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function drawPlane() {
  const box = document.getElementById("plane");
  if (!chart) {
    chart = echarts.init(box, null, { renderer: "canvas" });
    chart.on("click", (event) => event.data !== undefined && choose(sampleOf(event)));
    new ResizeObserver(() => chart.resize()).observe(box);
  }
  const colouring = colourings()[chosen.colour], text = css("--text"), rule = css("--rule");
  const places = colouring.names.map(() => ({ kept: [], dropped: [] }));
  for (const sample of view.samples) {
    const group = places[colouring.of(sample)];
    if (group && view.y[sample] > 0) (view.fate[sample] === DROPPED ? group.dropped : group.kept).push(sample);
  }
  drawn.length = 0;
  const series = [];
  places.forEach((group, index) => {
    const colour = css(colouring.colours[index % colouring.colours.length]);
    for (const [fate, samples] of Object.entries(group)) {
      drawn.push(samples);
      const data = samples.map((sample) => [view.x[sample], view.y[sample]]);
      const kept = fate === "kept";
      series.push({
        type: "scatter",
        data,
        symbolSize: kept ? 8 : 6,
        large: samples.length > LARGE,
        largeThreshold: LARGE,
        progressive: 0,
        animation: false,
        // dropped samples are rings
        itemStyle: kept ? { color: colour, opacity: 0.85 } : { color: "transparent", borderColor: colour, borderWidth: 1.5, opacity: 0.6 },
        z: kept ? 3 : 2,
      });
    }
  });
  const at = chosen.sample;
  drawn.push([at]);
  series.push({
    type: "scatter",
    data: at >= 0 && view.y[at] > 0 ? [[view.x[at], view.y[at]]] : [],
    symbolSize: 18,
    silent: true,
    animation: false,
    itemStyle: { color: "transparent", borderColor: text, borderWidth: 2 },
    z: 5,
  });
  const axis = {
    scale: true,
    nameLocation: "middle",
    nameTextStyle: { color: text, fontSize: 13 },
    axisLabel: { color: text },
    axisLine: { show: true, lineStyle: { color: rule } },
    splitLine: { lineStyle: { color: rule, opacity: 0.5 } },
  };
  chart.setOption(
    {
      animation: false,
      grid: { left: 58, right: 14, top: 12, bottom: 44 },
      tooltip: { trigger: "item", formatter: tooltip, confine: true, transitionDuration: 0 },
      xAxis: { ...axis, type: "value", name: "Uncertainty: mean token entropy (nats)", nameGap: 27 },
      yAxis: { ...axis, type: "log", name: "Error: perplexity", nameGap: 42, axisLabel: { color: text, formatter: short } },
      dataZoom: [0, 1].map((index) => ({
        id: `zoom-${index}`,
        type: "inside",
        [index ? "yAxisIndex" : "xAxisIndex"]: 0,
        filterMode: "none",
        // a finger on the plane scrolls the page; two fingers zoom
        moveOnMouseMove: !matchMedia("(pointer: coarse)").matches,
      })),
      series,
    },
    { replaceMerge: ["series"] },
  );
}

const drawn = []; // for each series, the samples of its points
const sampleOf = (event) => drawn[event.seriesIndex][event.dataIndex];

const short = (value) =>
  value >= 1e6 ? Number(value).toExponential(0) : Number(value) >= 1000 ? `${Number(value) / 1000}k` : String(Number(Number(value).toPrecision(3)));

// an element and no HTML text: the excerpt is anybody's text
function tooltip(event) {
  const sample = sampleOf(event), tip = document.createElement("div");
  tip.className = "tip";
  tip.append(element("b", `#${columns.number[sample]}`), ` ${describe(sample)}`, element("br"), element("bdi", meta.excerpts[sample]));
  return tip;
}

function zoom(factor) {
  for (const { id, start, end } of chart.getOption().dataZoom) {
    const middle = (start + end) / 2, half = Math.min(50, ((end - start) / 2) * factor);
    const low = Math.max(0, Math.min(100 - 2 * half, middle - half));
    chart.dispatchAction({ type: "dataZoom", dataZoomId: id, start: low, end: low + 2 * half });
  }
}
