// A click (or Enter) on a figure shows it as large as the window; where that is hardly larger, twice its size, to scroll.
(() => {
  const dialog = document.createElement("dialog");
  dialog.className = "enlarged";
  dialog.setAttribute("aria-label", "enlarged figure");
  dialog.addEventListener("click", () => dialog.close());
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "Escape") dialog.close(); // Sphinx's own script keeps the browser from it
  });

  const enlarge = (figure) => {
    const whole = Math.min(
      window.innerWidth / figure.naturalWidth,
      window.innerHeight / figure.naturalHeight,
    ) * figure.naturalWidth;
    const shown = figure.getBoundingClientRect().width;
    const copy = new Image();
    copy.src = figure.src;
    copy.alt = figure.alt;
    copy.style.width = `${Math.round(whole >= 1.2 * shown ? whole : 2 * shown)}px`;
    dialog.replaceChildren(copy);
    dialog.showModal();
  };

  document.body.append(dialog);
  for (const figure of document.querySelectorAll("article img")) {
    figure.classList.add("enlargeable");
    figure.tabIndex = 0;
    figure.setAttribute("role", "button");
    figure.title = "enlarge";
    figure.addEventListener("click", () => enlarge(figure));
    figure.addEventListener("keydown", (event) => {
      if (event.key === "Enter") enlarge(figure);
    });
  }
})();
