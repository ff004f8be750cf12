// Before anything is painted, so that no page flashes in the wrong colours. `data-wanted` on the root is what was chosen,
// and `data-theme` what is shown: the system's theme unless another was chosen.
(function () {
  const root = document.documentElement, system = matchMedia("(prefers-color-scheme: dark)");
  const show = () => {
    const { wanted } = root.dataset;
    root.dataset.theme = wanted !== "auto" ? wanted : system.matches ? "dark" : "light";
  };
  let kept = null;
  try {
    kept = localStorage.getItem("dropgate.theme");
  } catch {
    // storage may be switched off: then the system's theme is shown
  }
  root.dataset.wanted = kept === "light" || kept === "dark" ? kept : "auto";
  show();
  addEventListener("themewanted", show);
  system.addEventListener("change", show);
})();
