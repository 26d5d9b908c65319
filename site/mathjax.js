// Glyphs come from the copy beside this page; nothing is asked of another host.
(() => {
  const here = new URL("_static/mathjax/", new URL(document.documentElement.dataset.content_root || "./", location.href));
  window.MathJax = {
    loader: { paths: { mathjax: here.href.replace(/\/$/, ""), "mathjax-newcm": new URL("newcm", here).href } },
    output: { fontPath: new URL("newcm", here).href },
    svg: { mtextInheritFont: true },
    options: {
      enableMenu: false, enableSpeech: false, enableBraille: false, enableEnrichment: false, enableExplorer: false,
      processHtmlClass: "tex2jax_process|mathjax_process|math|output_area",
    },
  };
})();
