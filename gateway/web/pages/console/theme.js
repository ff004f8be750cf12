// Before anything is painted, so that no page flashes in the wrong colours.
(function () {
  let wanted = null;
  try {
    wanted = localStorage.getItem("dropgate.theme");
  } catch {
    // storage may be switched off: then the system's theme is shown
  }
  if (wanted === "light" || wanted === "dark") document.documentElement.dataset.theme = wanted;
})();
