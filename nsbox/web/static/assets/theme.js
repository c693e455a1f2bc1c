"use strict";
// Not a module: it runs before the first paint, so that a page in the other scheme does not flash.
try {
  const wanted = localStorage.getItem("nsbox.theme");
  if (wanted === "dark" || wanted === "light") document.documentElement.dataset.theme = wanted;
} catch {
  // No storage: the system's scheme it is.
}
