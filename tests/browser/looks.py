"""What a test asks the editor's page, in its own language; the graph's own objects are alike in all versions."""

from __future__ import annotations

FIND = "id => app.graph._nodes.find(node => String(node.id) == id)"
ON_SCREEN = """([x, y]) => {
    const box = app.canvas.canvas.getBoundingClientRect(), {offset, scale} = app.canvas.ds
    return [box.left + (x + offset[0]) * scale, box.top + (y + offset[1]) * scale]
}"""

READY = """() => window.app?.graph && !document.querySelector('#splash-loader')
    && 'DiffusionPerceptionPerceive' in window.LiteGraph.registered_node_types"""
VIEW = "() => [...app.canvas.ds.offset, app.canvas.ds.scale]"
CLEAR = """zoom => {
    app.graph.clear(); app.lastNodeErrors = null; app.canvas.ds.offset = [0, 0]; app.canvas.ds.scale = zoom
}"""
# a name that begins with $$ is the editor's own for a line or a picture that stands on a node
NODES = """() => app.graph._nodes.map(node => ({
    id: String(node.id), type: node.type, title: node.getTitle(),
    red: !!node.has_errors || !(node.isVirtualNode || node.isSubgraphNode?.() || node.constructor.nodeData),
    widgets: Object.fromEntries((node.widgets ?? []).filter(widget => !widget.name.startsWith('$$'))
        .map(widget => [widget.name, widget.value])),
}))"""
WIRES = "() => [...app.graph.links.values()].length"
PICTURES = """async () => {
    const shades = picture => {
        const small = new OffscreenCanvas(64, 64).getContext('2d')
        small.drawImage(picture, 0, 0, 64, 64)
        return new Set(new Uint32Array(small.getImageData(0, 0, 64, 64).data.buffer)).size
    }
    const shown = app.graph._nodes.filter(node => node.imgs?.length)
    await Promise.all(shown.flatMap(node => node.imgs.map(picture => picture.decode())))
    return Object.fromEntries(shown.map(node => [String(node.id), node.imgs.map(picture => ({
        width: picture.naturalWidth, height: picture.naturalHeight, shades: shades(picture),
    }))]))
}"""
SLOT = f"""([id, side, name]) => {{
    const node = ({FIND})(id), index = node[side].findIndex(slot => slot.name == name)
    if (index < 0) throw new Error(`${{node.title}} has no ${{name}} among its ${{side}}`)
    return ({ON_SCREEN})(node.getConnectionPos(side == 'inputs', index))
}}"""
CONNECT = f"""([source, output, target, input]) => {{
    const [from, to] = [({FIND})(source), ({FIND})(target)]
    const place = (slots, name) => slots.findIndex(slot => slot.name == name)
    from.connect(place(from.outputs, output), to, place(to.inputs, input))
}}"""
TITLE = f"id => {{ const {{pos}} = ({FIND})(id); return ({ON_SCREEN})([pos[0] + 70, pos[1] - 12]) }}"
CHOOSE = f"""([id, values]) => {{
    for (const [name, value] of Object.entries(values)) {{
        const widget = ({FIND})(id).widgets.find(widget => widget.name == name)
        widget.value = value
        widget.callback?.(value)
    }}
}}"""
DROP = """([name, type, content]) => {
    const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0)), dropped = new DataTransfer()
    dropped.items.add(new File([bytes], name, {type}))
    const canvas = app.canvas.canvas, box = canvas.getBoundingClientRect()
    for (const kind of ['dragenter', 'dragover', 'drop'])
        canvas.dispatchEvent(new DragEvent(kind, {
            dataTransfer: dropped, bubbles: true, cancelable: true,
            clientX: box.left + box.width / 2, clientY: box.bottom - 60,
        }))
}"""
