// What is painted on a canvas does not follow the page's colours by itself.

import { useEffect, useState } from "preact/hooks";

/** Another value whenever the page's colours change: a canvas is not painted anew by itself. */
export function useTheme() {
  const [count, setCount] = useState(0);
  useEffect(() => {
    const watcher = new MutationObserver(() => setCount((before) => before + 1));
    watcher.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => watcher.disconnect();
  }, []);
  return count;
}

/** "#rrggbb" as [red, green, blue]. */
export function hex(name) {
  return [1, 3, 5].map((place) => parseInt(name.slice(place, place + 2), 16));
}
