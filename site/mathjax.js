// Glyphs come from the copy beside this page; nothing is asked of another host.
(() => {
  const root = document.documentElement.dataset.content_root || "./";
  const here = new URL(`${root}_static/mathjax`, location.href).href;
  window.MathJax = {
    loader: { paths: { mathjax: here, "mathjax-newcm": `${here}/newcm` } },
    output: { fontPath: `${here}/newcm` },
    options: {
      processHtmlClass: "tex2jax_process|mathjax_process|math|output_area",
      // Spoken formulae need a worker and rules from MathJax's host. Screen readers get MathML instead.
      enableSpeech: false, enableBraille: false, enableEnrichment: false, enableExplorer: false, enableAssistiveMml: true,
      menuOptions: { settings: { enrich: false, speech: false, braille: false, collapsible: false, assistiveMml: true } },
    },
  };
})();
