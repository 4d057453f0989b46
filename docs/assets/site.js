// For screen readers and keyboards: name what the theme leaves without a name, and let wide tables be
// scrolled without a mouse.  The theme adds both while the page is shown, so they are waited for.
const seen = new WeakSet();
let number = 0;
function complete() {
  for (const bar of document.querySelectorAll(".md-code__nav")) {
    if (seen.has(bar)) continue;
    seen.add(bar);
    number += 1;
    bar.setAttribute("aria-label", `Code ${number}`);
  }
  for (const table of document.querySelectorAll(".md-typeset__scrollwrap")) {
    if (seen.has(table)) continue;
    seen.add(table);
    table.tabIndex = 0;
    table.setAttribute("role", "group");
    table.setAttribute("aria-label", "Table");
  }
}
new MutationObserver(complete).observe(document.documentElement, { childList: true, subtree: true });
complete();
