// Runs before the first paint, so that a chosen theme never flashes; without a choice the system's is followed.
(() => {
  const chosen = localStorage.getItem("llmops.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
