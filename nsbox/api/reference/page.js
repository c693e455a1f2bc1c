// What the page can do besides being read: filter, and open what a link points to.
"use strict";

const input = document.getElementById("filter");
const found = document.getElementById("found");
const operations = [...document.querySelectorAll("details.operation")];
const links = new Map([...document.querySelectorAll("[data-for]")].map((one) => [one.dataset.for, one]));

function filter() {
  const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
  let count = 0;
  for (const one of operations) {
    const fits = words.every((word) => one.dataset.words.includes(word));
    one.hidden = !fits;
    links.get(one.id).hidden = !fits;
    count += fits ? 1 : 0;
  }
  for (const section of document.querySelectorAll("section.tag:not(#types)")) {
    section.hidden = !section.querySelector("details.operation:not([hidden])");
  }
  found.textContent = words.length ? `${count} of ${operations.length}` : "";
}

function openTarget() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (target instanceof HTMLDetailsElement) {
    target.open = true;
    target.scrollIntoView();
  }
}

for (const one of document.querySelectorAll(".filter")) one.hidden = false;
input.addEventListener("input", filter);
addEventListener("hashchange", openTarget);
addEventListener("keydown", (event) => {
  if (event.key === "/" && event.target !== input && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    input.focus();
  }
});
openTarget();
