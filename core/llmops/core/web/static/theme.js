// Runs before the first paint, so that the theme chosen in the chat never flashes; without a choice the system's holds.
(() => {
  const chosen = localStorage.getItem("llmops.theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
