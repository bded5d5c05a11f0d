"""The style sheet, script and icon of the pages; the study itself serves them, nothing comes from elsewhere."""

STYLE = """
:root{--paper:#fbfbfa;--card:#fff;--ink:#1c2128;--soft:#5d6570;--line:#dfe2e6;--accent:#b8481a;--on:#fff;
color-scheme:light dark}
@media (prefers-color-scheme:dark){:root{--paper:#14171b;--card:#1b1f25;--ink:#e6e8eb;--soft:#9aa3af;--line:#343b44;
--accent:#f0925e;--on:#1c1410}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);
font:17px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:1020px;margin:0 auto;padding:1.2rem 1.25rem 2.5rem}
main.text{max-width:42rem;padding-top:2.6rem}
h1{font-size:1.55rem;line-height:1.25;margin:.2rem 0 .5rem;letter-spacing:-.01em;text-wrap:balance}
main.trial h1{text-align:center;margin:.9rem 0 .2rem}
h2{font-size:1.05rem;margin:2.2rem 0 .4rem}
p,li{max-width:40rem}
.soft{color:var(--soft);font-size:.9rem}
.told{text-align:center;margin:0 0 .4rem;color:var(--soft);max-width:none}
.told b{color:var(--ink)}
header{display:flex;gap:1rem;align-items:center;color:var(--soft);font-size:.9rem;font-variant-numeric:tabular-nums}
header span:last-child{margin-left:auto}
progress{flex:1;max-width:16rem;height:6px;appearance:none;border:0;border-radius:3px;overflow:hidden;background:var(--line)}
progress::-webkit-progress-bar{background:var(--line)}
progress::-webkit-progress-value{background:var(--accent)}
progress::-moz-progress-bar{background:var(--accent)}
.shown{display:grid;grid-template-columns:1fr 1fr;gap:1.25rem;margin:1rem 0}
.shown.one{grid-template-columns:minmax(0,1fr);max-width:34rem;margin:1rem auto}
.side{display:flex;flex-direction:column;gap:.75rem;min-width:0}
.stage{flex:1;display:flex;align-items:center;justify-content:center;background:var(--card);
border:1px solid var(--line);border-radius:12px;padding:1rem;min-height:8rem;min-width:0}
.stage img{display:block;max-width:min(100%,54vh);height:auto}
.stage img.sharp{image-rendering:pixelated;border-radius:3px}
.stage audio{width:100%}
.stage pre{margin:0;width:100%;max-height:52vh;overflow:auto;
font:.95rem/1.5 ui-monospace,SFMono-Regular,Menlo,monospace;white-space:pre-wrap;overflow-wrap:anywhere}
.stage.table{align-items:flex-start;overflow-x:auto;justify-content:flex-start;padding:.3rem .5rem}
table{border-collapse:collapse;font-size:.85rem;font-variant-numeric:tabular-nums}
th,td{padding:.35rem .6rem;text-align:left;border-top:1px solid var(--line);white-space:nowrap}
thead th{border-top:0;color:var(--soft);font-weight:600}
button{font:inherit;font-weight:600;color:var(--ink);background:var(--card);
border:1px solid var(--line);border-radius:10px;padding:.7rem 1rem;min-height:3rem;cursor:pointer}
button:hover{border-color:var(--accent)}
button:focus-visible,input:focus-visible,audio:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
button.main{background:var(--accent);border-color:var(--accent);color:var(--on)}
button.plain{display:block;margin:0 auto;min-width:12rem;font-weight:500}
kbd{font:600 .75rem ui-monospace,Menlo,monospace;color:var(--soft);border:1px solid var(--line);border-radius:4px;
padding:.05rem .35rem;margin-left:.45rem}
.scale{display:grid;grid-template-columns:repeat(5,1fr);gap:.6rem;max-width:44rem;margin:0 auto}
.scale button{padding:.55rem .3rem;line-height:1.3}
.scale b{display:block;font-size:1.25rem}
.scale small{display:block;font-weight:500;color:var(--soft)}
.scale kbd{display:none}
.sent button{opacity:.5;cursor:default}
.consent{background:var(--card);border:1px solid var(--line);border-left:4px solid var(--accent);border-radius:8px;
padding:.8rem 1rem;margin:1rem 0;overflow-wrap:anywhere}
.row{display:flex;gap:.7rem;flex-wrap:wrap;align-items:center}
input[type=text]{font:inherit;color:var(--ink);background:var(--card);border:1px solid var(--line);border-radius:10px;
padding:.6rem .8rem;min-height:3rem;width:11rem;letter-spacing:.05em}
code{font:600 1.05em ui-monospace,SFMono-Regular,Menlo,monospace;letter-spacing:.04em;white-space:nowrap}
@media (max-width:640px){
body{font-size:16px}main{padding:.9rem .9rem 2rem}main.text{padding-top:1.4rem}
h1{font-size:1.25rem}
.shown{gap:.7rem}.shown.stacked{grid-template-columns:minmax(0,1fr)}
.stage{padding:.5rem;min-height:6rem}
.scale{gap:.35rem}.scale small{font-size:.72rem}
kbd,.keys{display:none}}
@media (hover:none){kbd,.keys{display:none}}
.keys kbd{margin-left:0}
"""

ICON = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">
<rect width="7" height="16" rx="2" fill="#3b7dd8"/>
<rect x="9" width="7" height="16" rx="2" fill="#e8743b"/></svg>
"""

SCRIPT = """
"use strict";
(() => {
  window.addEventListener("pageshow", (e) => { if (e.persisted) location.reload(); });
  const form = document.querySelector("form.answer");
  if (!form) return;
  let begun = performance.now();
  let sent = false;
  // the clock starts when everything is to be seen
  const pictures = [...document.images].map((i) => i.decode().catch(() => undefined));
  Promise.all(pictures).then(() => { begun = performance.now(); });
  form.addEventListener("submit", (e) => {
    if (sent) { e.preventDefault(); return; }
    sent = true;
    form.elements.seconds.value = ((performance.now() - begun) / 1000).toFixed(3);
    document.body.classList.add("sent");
  });
  document.addEventListener("keydown", (e) => {
    if (e.repeat || e.ctrlKey || e.metaKey || e.altKey) return;
    if (e.key.startsWith("Arrow") && e.target instanceof HTMLMediaElement) return;
    const buttons = [...form.querySelectorAll("button[data-keys]")];
    const pressed = buttons.find((b) => b.dataset.keys.split(" ").includes(e.key));
    if (pressed) { e.preventDefault(); pressed.click(); }
  });
  // one recording at a time
  const players = [...document.querySelectorAll("audio")];
  players.forEach((p) => p.addEventListener("play", () => players.forEach((o) => { if (o !== p) o.pause(); })));
})();
"""
