// An image with SVG over it. Where `steps` is set, the mouse wheel counts up and down in `wheel`.
const PIXELS_PER_STEP = 40; // a touchpad sends many small movements, a wheel about 100 px at once

function render({ model, el }) {
  const frame = document.createElement("div");
  frame.className = model.get("steps") ? "cmbfe-image cmbfe-slice" : "cmbfe-image";
  const image = document.createElement("img");
  const overlay = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  image.alt = model.get("name");
  frame.append(image, overlay);
  el.append(frame);

  let address = "";
  const drawImage = () => {
    URL.revokeObjectURL(address);
    address = URL.createObjectURL(new Blob([model.get("png")], { type: "image/png" }));
    image.src = address;
  };
  const drawOverlay = () => {
    overlay.setAttribute("viewBox", `0 0 ${model.get("size").join(" ")}`);
    overlay.innerHTML = model.get("overlay");
  };
  let moved = 0;
  const turn = (event) => {
    if (!model.get("steps") || event.ctrlKey) return;
    event.preventDefault();
    event.stopPropagation();
    moved += event.deltaMode === 0 ? event.deltaY : Math.sign(event.deltaY) * PIXELS_PER_STEP;
    const steps = Math.trunc(moved / PIXELS_PER_STEP);
    if (steps === 0) return;
    moved = 0;
    model.set("wheel", model.get("wheel") + Math.sign(steps));
    model.save_changes();
  };
  frame.addEventListener("wheel", turn, { passive: false });
  model.on("change:png", drawImage);
  model.on("change:overlay change:size", drawOverlay);
  drawImage();
  drawOverlay();
  return () => {
    URL.revokeObjectURL(address);
    model.off("change:png", drawImage);
    model.off("change:overlay change:size", drawOverlay);
  };
}

export default { render };
