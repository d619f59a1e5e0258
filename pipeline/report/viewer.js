"use strict";
// A voxel's value holds one bit a region; its colour is that of the innermost region that is switched on.
function colourTable(data, shown) {
  const table = {R: [], G: [], B: [], A: [], I: [], labels: []};
  for (let value = 0; value < 1 << data.regions.length; value++) {
    let inner = -1;
    data.regions.forEach((_, bit) => { if (shown[bit] && value >> bit & 1) inner = bit; });
    const [r, g, b] = inner < 0 ? [0, 0, 0] : data.colours[inner];
    table.R.push(r); table.G.push(g); table.B.push(b); table.A.push(inner < 0 ? 0 : 255);
    table.I.push(value); table.labels.push(inner < 0 ? "" : data.regions[inner]);
  }
  return table;
}
async function openView(box) {
  const data = JSON.parse(box.querySelector("script").textContent);
  const find = name => [...box.querySelectorAll(name)];
  box.querySelector(".start").hidden = true;
  box.querySelector(".stage").hidden = false;
  const message = box.querySelector(".message");
  message.hidden = false;
  try {
    const view = new niivue.Niivue({isRadiologicalConvention: true, sagittalNoseLeft: true, show3Dcrosshair: true,
      multiplanarShowRender: 0, backColor: [0, 0, 0, 1], crosshairColor: [1, 1, 1, 0.5], crosshairWidth: 0.5,
      fontColor: [0.85, 0.85, 0.85, 1], isColorbar: false, dragAndDropEnabled: false, loadingText: "",
      logLevel: "error"});
    await view.attachToCanvas(box.querySelector("canvas"));
    if (!view.gl) throw new Error("no WebGL 2");
    data.others.forEach((other, i) => { data["others" + i] = other; });
    const load = (name, options) =>
      niivue.NVImage.loadFromBase64({base64: data[name], name: name + ".nii.gz", ...options});
    view.addVolume(await load("background", {colormap: "gray", cal_min: data.window[0], cal_max: data.window[1]}));
    const sides = find(".side").map(input => input.value);
    for (const name of sides) view.addVolume(await load(name, {opacity: 0}));
    const redraw = () => {
      const shown = find(".region").map(input => input.checked);
      const side = find(".side").find(input => input.checked).value;
      const opacity = box.querySelector(".opacity").value / 100;
      sides.forEach((name, i) => {
        view.volumes[i + 1].setColormapLabel(colourTable(data, shown));
        view.setOpacity(i + 1, name === side ? opacity : 0);
      });
      view.updateGLVolume();
    };
    view.setSliceType(view.sliceTypeMultiplanar);
    view.scene.crosshairPos = view.mm2frac(data.centre);
    for (const input of find("input")) input.addEventListener("input", redraw);
    redraw();
    box.dataset.state = "ready";
  } catch (error) {
    message.textContent = "This browser cannot show the interactive view (it needs WebGL 2): " + error.message;
    box.querySelector(".stage").hidden = true;
    box.dataset.state = "failed";
  }
}
for (const box of document.querySelectorAll(".viewer")) {
  const button = box.querySelector(".load");
  button.hidden = false;
  button.addEventListener("click", () => openView(box));
}
