r"""简体中文。"""

MESSAGES = {
    "title": "“{name}”的梯度推导",
    "made": "由 chainrule {version} 根据网络方程生成；推导标识 {hash}。",
    "section.result": "梯度",
    "section.notation": "记号",
    "section.conventions": "约定",
    "section.graph": "计算概览",
    "section.forward": "前向：网络的方程",
    "section.backward": "反向：逐步推导梯度",
    "section.numbers": "代入数值",
    "section.check": "数值检验",
    "section.stability": "数值稳定性与不可导点",
    "section.flow": "信号与梯度的流动",
    "section.optimizer": "优化器的一步",
    "section.cost": "计算量", "section.frozen": "冻结了什么，节省了什么",
    "section.kernel": "生成的内核",
    "section.rules": "附录：所用法则",
    "section.contents": "目录",
    "stop": "。",
    "result.intro": "下面给出损失 {loss} 对每个参数的导数；推导从方程 {first} 开始。"
    "{adjoints}",
    "result.bar": "字母上的横线表示中间量的伴随，$\\bar v = \\partial L/\\partial v$。",
    "result.delta": "以中间量为下标的字母 $\\delta$ 表示该量的伴随，"
    "$\\delta_v = \\partial L/\\partial v$。",
    "result.partial": "中间量 $v$ 的伴随就是 $\\partial L/\\partial v$。",
    "result.others": "途中还对其他标量求导；记号一节说明每个伴随属于哪一个标量。",
    "result.jacobian": "下面给出 {of} 的全部导数，即它的每个元素对自变量每个元素的导数；"
    "推导从方程 {first} 开始。推导中每个伴随的下标前面都带有被求导量的下标。",
    "result.intermediate": "连同从损失回到输入的递推",
    "notation.intro": "下标从 0 开始。参数自身带编号时，下标写在分号之后：$W_{1;i j}$ 是 $W_1$ 的"
    "第 $(i, j)$ 个元素。",
    "notation.reused": "同一字母出现在几行时，它在每个方程中只有一个范围，"
    "即该方程中它所在轴的范围。",
    "notation.symbol": "符号", "notation.meaning": "含义", "notation.shape": "形状",
    "notation.role": "角色", "notation.code": "代码中的名字",
    "notation.sizes": "大小与下标", "notation.index": "下标", "notation.range": "范围",
    "notation.size": "大小",
    "role.input": "输入", "role.parameter": "参数", "role.state": "状态",
    "role.constant": "常量", "role.random": "随机量", "role.intermediate": "中间量",
    "role.gradient": "伴随",
    "meaning.input": "每一步给出的数据",
    "meaning.labels": "每一步给出的整数",
    "meaning.distribution": "最后一维之和为 1 的数据",
    "meaning.parameter": "待训练；用于 {numbers}",
    "meaning.state": "在各步之间保留", "meaning.constant": "常量",
    "meaning.random": "每一步抽取",
    "meaning.intermediate": "由方程 {number} 定义",
    "meaning.argument": "方程 {number} 中的自变量，单独命名",
    "meaning.softmax": "softmax：log-sum-exp 的导数",
    "meaning.ties": "达到最大值的元素个数",
    "meaning.others": "其余各因子的乘积",
    "meaning.adjoint": "{number}，{scalar} 对 {of} 的导数",
    "meaning.loss": "损失",
    "meaning.gate.keep": "逐步保留 {of} 的份额",
    "meaning.gate.write": "写入 {of} 的份额",
    "meaning.gate.show": "显示 {of} 的份额",
    "meaning.gate.reset": "上一步进入 {of} 的新内容的份额",
    "meaning.gate.new": "{of} 的新内容",
    "between": "；",
    "remark.norm.what": "{of} 减去均值，除以标准差：无论 {of} 的大小如何，商在 {over} 上均值为 0、"
    "方差为 1，每个均值取自 {count} 个元素。因此信号逐层既不放大也不缩小，"
    "同一学习率适合各层的权重。"
    "其后若有增益和偏置，就把由此失去的尺度和位置还回来。",
    "remark.norm.again": "{of} 的归一化与 {first} 相同：方程 {number} 之后所述在此同样成立。",
    "remark.norm.eps": "若根号下没有 {eps}，全部相等的元素就会被 0 除。有了它，商的方差是 "
    "$\\frac{v}{v + \\varepsilon}$，略小于 1。",
    "remark.norm.scale": "除去这个常数的影响，对任意 $\\alpha > 0$，{of} 换成 $\\alpha$ {of} "
    "$+\\,\\beta$ 时 {here} 不变。对 $\\beta$ 和 $\\alpha$ 求导可知：在 {over} 上 {of} "
    "的伴随之和为 0；"
    "各元素乘以它与 {mean} 的偏差之后，和仍为 0。{of} 之前的权重放大 $\\alpha$ 倍，"
    "其梯度就缩小为 $\\frac{1}{\\alpha}$：一步走得过长，下一步就变短，所以能承受更大的学习率。",
    "remark.norm.one": "均值和方差取自批次：一个样本的结果依赖于其他样本，伴随在样本之间传递，"
    "样本少则估计有噪声。批次只有一个样本时，每个元素就是自己的均值：无论输入是什么，商都是 0，"
    "{of} 的伴随也是 0，它之前的一切都学不到东西。",
    "remark.norm.places": "均值和方差取自批次：一个样本的结果依赖于其他样本，伴随在样本之间传递。"
    "批次只有一个样本时，每个均值仍有 {left} 个元素，所以仍有可学的东西。",
    "remark.norm.sample": "均值和方差取自单个样本：样本之间互不依赖，与批次大小无关，"
    "预测时的计算与训练相同。",
    "remark.norm.kept": "预测不应依赖同一批次中的其他样本。因此训练时 {states} 按 {numbers} 跟随 "
    "{mean} 和 {variance}，预测时用它们代替：这时该层是每个元素的固定线性函数。",
    "remark.norm.prediction": "{mean} 和 {variance} 是训练中保留下来的状态：这里该层是 {of} "
    "每个元素的固定线性函数，预测不依赖同一批次中的其他样本。",
    "remark.norm.cancelled": "{names} 对同一均值的所有元素加上同一个数，与均值的偏差中没有它："
    "它不起作用，梯度为 0（检验只能证实这一点），可以省去。",
    "remark.norm.why": "训练为何因此大有改善，尚无定论。最初的解释是各层所受分布的漂移减小，"
    "已受质疑；此后提出的有损失更平滑、估计的噪声起正则化作用。这里所写的只由方程推出。",
    "remark.gate.keep": "{gate} 的每个元素都在 0 与 1 之间：它是上一步的 {of} 被保留的份额。"
    "接近 1 时该元素原样传下去，接近 0 时被遗忘。",
    "remark.gate.write": "{gate} 也在 0 与 1 之间，是新内容 {what} 被写入的份额。",
    "remark.gate.reset": "{gate} 在新内容之中，是形成新内容时所用的上一步的份额；接近 0 "
    "时新内容只由输入形成。",
    "remark.gate.show": "{gate} 是 {what} 通过 {shown} 显示给下一步以及所有读取 {shown} "
    "者的份额。"
    "被遮住的并未丢失，仍留在 {of} 中。",
    "remark.gate.way": "所以 {of} 在各步之间有自己的通路，沿此通路的导数就是门本身，逐元素为：",
    "remark.gate.along": "其中没有权重，也没有其他函数的斜率。{steps} 步中伴随要经过 {count} "
    "个这样的因子。"
    "自变量接近 0 时（训练之前权重很小，便是如此），每个因子为 $\\sigma(0)$ = {start}，合起来是 "
    "{half}；"
    "要让一半的伴随到达，门须为 {needed}，即自变量为 {argument}。所以这种门的偏置常取大于 0 "
    "的初值。"
    "其余的回路经过门和新内容所读取的上一步，每一步都要乘权重。",
    "remark.gate.any": "其中没有权重，也没有其他函数的斜率。从第 $s$ 步回到第 $t$ 步，伴随要经过 "
    "$s - t$ 个这样的因子。自变量接近 0 时（训练之前权重很小，便是如此），每个因子为 "
    "$\\sigma(0)$ = 0.5，"
    "每步减半，所以这种门的偏置常取大于 0 的初值。"
    "其余的回路经过门和新内容所读取的上一步，每一步都要乘权重。",
    "remark.noise": "随机数像数据一样读取：对这一步的种子，{here} 是 {read} 的确定函数，"
    "求导的就是它。所以噪声影响梯度，自己却没有梯度。",
    "remark.normal": "对数的平方根乘以余弦，取自两个均匀随机数，就是均值为 0、方差为 1 的正态随机数"
    "（Box 与 Muller，1958）。",
    "remark.scale": "这个因子是 {count} 的平方根的倒数，{count} 是对 {over} 相加的乘积的个数："
    "若其因子相互独立、均值为 0、方差为 1，则和的方差是 {count}，"
    "而无论这个数是多少，{here} 的方差都是 1。"
    "得分若更大，softmax 一开始就几乎认定其中之一，导数接近 0。",
    "remark.loss": "设 $p$ 是 {scores} 中 {count} 个得分的 softmax，每个样本按其标签 $t$ 加上 "
    "$-\\log p_t$：标签确定无疑时为 0，各类等可能时为 {value}，认为标签不可能时无界。所以 {loss} "
    "是标签的平均负对数似然，也是把标签看作分布时它与 $p$ 的交叉熵。只有得分之差起作用："
    "一个样本的所有得分加上同一个数，什么也不变；得分加倍，次序不变而把握加倍。",
    "softmax.intro": "代入数值：一个标签为 {label} 的样本，其得分大到指数函数无法计算，"
    "指数函数在 {largest} 以上溢出（单精度为 {single}）。所有得分减去同一个数，"
    "各个幂都除以同一个因子，在商中约去；"
    "减去最大的得分，则一个幂为 1，其余都不超过它。",
    "softmax.class": "类别", "softmax.shifted": "减去最大值", "softmax.power": "它的幂",
    "softmax.outro": "{adjoint} 取自只有这一个样本的批次。只有标签处为负：下降一步使该得分升高，"
    "使其余的降低，各按其被相信的程度；一行之和为 0。",
    "scalar": "标量",
    "convention.layout.denominator": "梯度的形状与求导对象相同（分母布局）："
    "$\\frac{\\partial L}{\\partial W}$ "
    "在 $(i, j)$ 处是对 $W_{i j}$ 的导数，因此下降一步就是直接相减。",
    "convention.layout.numerator": "矩阵形式采用分子布局：列向量的梯度是行向量，"
    "$m$ 行 $n$ 列矩阵的梯度是 $n$ 行 $m$ 列，于是 "
    "$dL = \\operatorname{tr}(\\frac{\\partial L}{\\partial W} \\, dW)$。"
    "下降一步时要转置。分量形式中，$\\frac{\\partial L}{\\partial W_{i j}}$ "
    "在任何布局下都是对该元素的导数。",
    "convention.samples.rows": "批次中的样本是矩阵的行。",
    "convention.samples.columns": "矩阵形式中，批次的样本是列：这样的矩阵是代码所存矩阵的转置；"
    "每个样本一个元素的向量是行向量。",
    "convention.vectors": "矩阵形式中，向量是列向量，$\\mathbf{1}_n$ 是 $n$ 个 1 的列向量，"
    "$\\odot$ 逐元素相乘；函数、幂和商逐元素作用；加上标量即加到每个元素上。",
    "convention.iverson": "方括号中的条件，如 $[k = t_b]$，成立时为 1，否则为 0；这是强零："
    "即使 $x$ 没有值，条件不成立时乘积仍为 0。",
    "convention.onehot.rows": "$\\operatorname{onehot}(t)$ 的第 $b$ 行"
    "在第 $t_b$ 列为 1，其余为 0。",
    "convention.onehot.columns": "$\\operatorname{onehot}(t)$ 的第 $b$ 列"
    "在第 $t_b$ 行为 1，其余为 0。",
    "convention.batch": "第一个下标 {index} 是批次中样本的编号。",
    "convention.reduction": "损失除以 {count}，所以每个梯度也是。",
    "convention.kink": "导数有跳跃之处取定一个值：{what}。",
    "convention.ties": "多个元素同时达到最大值时，平分其导数。",
    "convention.random": "$\\operatorname{uniform}_{n,i,j}(s)$ 是 0 与 1 之间的随机数，"
    "它只是整数的函数：该步的种子 $s$、随机流的编号 $n$ 与元素的下标。它的导数为 0。",
    "convention.first": "递推在其范围之外取初值：{formula}。",
    "graph.caption": "每个方框是一个张量，下方红色是它的伴随；圆角框是参数，双框是损失。"
    "箭头表示方程读取的内容；梯度逆着箭头流动。",
    "graph.folded": "带 × 的方框代表重复的层。",
    "graph.beside": "只为预测而保存的统计量未画出。",
    "forward.intro": "每个方程对其自由下标的所有取值成立。",
    "forward.where": "对 {indices}",
    "forward.first": "其中 {formula}，当 {condition}",
    "forward.padded": "{symbol} 在界外取 0",
    "forward.named": "单独命名，使它也有伴随",
    "form.index": "下标形式", "form.matrix": "矩阵形式", "form.einsum": "张量缩并",
    "form.shapes": "形状",
    "form.transposed.left": "{symbol} 要转置：求和下标 {index} 在其中位于最前，"
    "而左因子需要求和下标在最后。",
    "form.transposed.right": "{symbol} 要转置：求和下标 {index} 在其中位于最后，"
    "而右因子需要求和下标在最前。",
    "form.slides": "其中 {formula}，越界处读作 0：这是互相关，"
    "{symbol} 不翻转地滑动（机器学习中称为卷积）。",
    "form.flipped": "其中 {formula}，越界处读作 0：这是卷积，"
    "{symbol} 与下标方向相反，在每个空间维上翻转。",
    "form.spread": "只有下标为整数的位置才计入，如同各元素之间插入了零。",
    "layer.repeated": "第 {first} 至 {last} 层相同；下面是第 $\\ell$ 层。",
    "layer.range": "对 $\\ell$ = {first}, …, {last}",
    "layer.times": "× {count} 层",
    "backward.intro": "参数与损失之间的每个张量都有一个伴随。它说明损失如何响应：某元素增加很小的 "
    "$h$，"
    "损失就增加 $h$ 乘以它的伴随，所以下降一步与它方向相反。各伴随按相反的顺序求出，每个只求一次，"
    "由读取它的各量的伴随得到。反复出现的有四种情形：相加的各量原样得到伴随；"
    "相乘的各量得到伴随乘以另一因子；"
    "多次被读取的量得到全部贡献之和；取最大值时只有最大者得到伴随。",
    "backward.combined": "代入 {numbers} 并提出公因子，得",
    "backward.centred": "{sum} 为 0，已略去：{mean} 是 {of} 的平均值。",
    "backward.recursion": "关于 {index} 的递推，从 {first} 算到 {last}（{rule}）：超出末端伴随为 0",
    "forward.recursion": "关于 {index} 的递推，从 {first} 算到 {last}",
    "convention.slices": "带下标的粗体符号是固定这些下标后剩下的部分："
    "$\\mathbf{H}_t$ 是 $t$ 处的矩阵，$\\mathbf{H}_{:,0}$ 是第二维取 0 时的部分。",
    "backward.title": "{symbol} 的伴随",
    "backward.gradient": "对 {symbol} 的梯度",
    "backward.helper": "求导所需的量：{symbol}",
    "backward.seed": "{symbol} 是被求导的量，所以从 {formula} 开始。",
    "backward.reads": "{symbol} 用于方程 {number}。由{rule}，局部导数为",
    "backward.reads.many": "{symbol} 在 {count} 处被用到，见 {numbers}；每一处都有贡献。",
    "backward.from": "在 {number} 中，由{rule}，局部导数为",
    "backward.begins": "从其后再无步骤之处开始，即 {index} = {at}：",
    "backward.next": "到 {index} = {at}，刚算出的一步传来它的部分：",
    "backward.switch": "所以一个单元是一个开关：自变量不为正时，没有任何量回传，对该样本，"
    "它之前的权重都不变；"
    "自变量为正时全部通过，如同没有这个函数。",
    "backward.weighted": "对样本求和：每个样本加上它的 {input}，以误差 {error} 为权。"
    "没有误差的样本不起作用；"
    "{input} 放大十倍，这个梯度也放大十倍，所以数据要先化为同一尺度。",
    "backward.place": "乘以读取它的量的伴随 {adjoint}，每一处传回",
    "backward.solve": "解出读取元素 {place} 的位置：{relation}。",
    "backward.over": "，对 {indices} 求和（每个取值都读取该元素），",
    "backward.contributes": "乘以 {adjoint}{over} 贡献为",
    "backward.contributes.one": "贡献为{over}",
    "backward.same": "其余 {count} 处的贡献与此相同。",
    "backward.sum": "各处的贡献相加得",
    "backward.collected": "把公因子提到前面，即",
    "backward.collected.alone": "把公因子提到前面，得",
    "backward.result": "乘以 {adjoint}{over} 得",
    "backward.result.one": "即得{over}",
    "backward.inlined": "乘以 {adjoint} 后十分简单，直接代入使用之处：",
    "backward.inlined.one": "它十分简单，直接代入使用之处：",
    "check.intro": "用双精度计算推导出的梯度，并与前向方程的数值微分比较；数值微分自带误差界。",
    "check.verdict": "结论", "check.pass": "一致", "check.fail": "不一致",
    "check.undecided": "未定",
    "check.parameter": "参数", "check.directions": "方向（含单个元素）",
    "check.error": "最大误差", "check.bar": "误差界", "check.worst": "最差坐标",
    "check.seed": "取一个点（种子 {seed}；随机点避开不可导处）。", "check.sizes": "大小：{sizes}。",
    "check.method": "方法",
    "check.none": "未要求数值检验。",
    "stability.logsumexp": "$\\log\\sum_k e^{z_k}$ 按 $m + \\log\\sum_k e^{z_k - m}$ 计算，其中 "
    "$m = \\max_k z_k$：指数不会上溢，且 softmax $e^{z_k - u}$ 不大于 1。",
    "stability.safe": "{function} 用既不上溢也不相消的形式计算。",
    "stability.ledger": "这些函数在不可导处取定一个值：",
    "stability.kinks": "数值检验避开这些位置。各框架在某些位置的取法不同；"
    "取法在推导之前确定，并体现在推导中。",
    "stability.function": "函数", "stability.at": "位置", "stability.taken": "取值",
    "stability.equations": "方程", "stability.tie": "并列之处",
    "stability.border": "条件改变之处",
    "stability.shared": "并列的 $n$ 个元素各得 $\\frac{1}{n}$",
    "stability.branch": "所取分支的导数",
    "flow.intro": "训练开始时的预测：宽层、均值为 0 的独立权重下的均方根；"
    "传来的伴随视为与权重独立。",
    "flow.healthy": "梯度保持大小", "flow.vanishing": "梯度消失", "flow.exploding": "梯度爆炸",
    "flow.not": "未知",
    "flow.factor": "逐层变化的倍数为 {factor}，经过全部 {count} 层为 {total}。",
    "flow.layer": "层", "flow.signal": "信号", "flow.adjoint": "伴随", "flow.step": "倍数",
    "flow.jacobian": "雅可比矩阵", "flow.element": "其一元素",
    "flow.bound": "最大奇异值上界",
    "flow.recurrent": "通过 {names} 的递推，{steps} 步中每步变化的倍数为 {factor}。",
    "stability.first": "若 {scores} 中每个样本的 {count} 个得分都相等"
    "（权重很小时，训练之前几乎如此），则 {loss} 为 $\\log$ {count} = {value}："
    "训练应当从这里开始。更大说明得分一开始就过大，"
    "更小说明标签事先已被泄露。",
    "stability.none": "这些方程既不会溢出，也没有不可导点。",
    "numbers.intro": "前向的值为绿色，回传的梯度为红色。书写时取五位有效数字，计算用双精度。",
    "numbers.caption": "代入数值的计算图：值为绿色，梯度为红色。",
    "numbers.forward": "前向", "numbers.backward": "反向",
    "numbers.more": "其余 {count} 个元素同理。",
    "numbers.all": "全部数值",
    "numbers.name": "张量", "numbers.value": "值", "numbers.gradient": "梯度",
    "cost.intro": "运算指按方程写法计数的乘法和加法，函数另计。字节数按单精度、"
    "每个张量只搬运一次计算。计数中的字母是记号中的大小，不是单位。",
    "cost.equation": "方程", "cost.operations": "运算", "cost.functions": "函数",
    "cost.bytes": "搬运字节", "cost.forward": "前向合计", "cost.backward": "反向合计",
    "cost.stored": "为反向保留：{bytes} 字节；只做预测则无需保留。",
    "frozen.intro": "不训练：{names}。",
    "frozen.vanished": "因此不推导、不存储、不计算这些张量的伴随量：{names}；"
    "没有被训练的量需要它们。",
    "frozen.more": "及另外 {count} 个", "frozen.load": "反向过程", "frozen.now": "现在",
    "frozen.all": "全部训练", "frozen.equations": "方程", "frozen.operations": "运算",
    "frozen.functions": "函数", "frozen.adjoints": "伴随量字节",
    "frozen.kept": "前向保留字节", "frozen.gradients": "梯度（及优化器每个矩）字节",
    "optimizer.intro": "{name} 对每个参数 $p$ 及其梯度 $g$ 的一步：",
    "optimizer.with": "这里 {settings}。",
    "optimizer.prime": "撇号表示这一步之后的值。",
    "optimizer.states": "逐步保留、最初为 0 的有：{states}。",
    "optimizer.count": "{count} 从 1 起计步数。",
    "kernel.intro": "内核的注释中写有上面方程的编号。",
    "rules.intro": "每条法则列出一次，并说明它为何成立。",
    "rules.functions": "初等函数及其导数",
    "rules.function": "函数", "rules.derivative": "导数",
    "rules.definition": "由定义求导",
    "rules.proof": "理由：",
    "rule.seed.title": "起点",
    "rule.seed.says": "损失对自身的导数是 1。",
    "rule.seed.proof": "$\\frac{\\partial L}{\\partial L} = 1$。",
    "rule.linear.title": "和与常数因子法则",
    "rule.linear.says": "线性出现的量，其系数就是局部导数。",
    "rule.linear.proof": "设 $y = \\sum_i a_i x_i + r$，$a$ 与 $r$ 不含 $x$，则 "
    "$\\frac{\\partial y}{\\partial x_m} = a_m$，因为其余各项是常数。所以 $\\mathbf{x}$ "
    "各元素之和的梯度在每个元素处为 1，"
    "内积 $\\mathbf{w}^\\top \\mathbf{x}$ 对 $\\mathbf{x}$ 的梯度就是 $\\mathbf{w}$ 的各元素。"
    "加到所有元素上的数 $z$，$y_i = x_i + z$，代表 $z \\mathbf{1}$："
    "每个 $\\frac{\\partial y_i}{\\partial z}$ 为 1，所以它的伴随是它所散布到的一切之和 "
    "$\\bar z = \\sum_i \\bar y_i$。偏置的梯度因此是对批次求和。",
    "rule.product.title": "乘积法则",
    "rule.product.says": "乘积中其余的因子就是局部导数；张量出现的每一处分别求导。",
    "rule.product.proof": "$(f g)' = f' g + f g'$。设 $x$ 与 $w$ 是两处，对第一处 "
    "$\\frac{\\partial (x w)}{\\partial x} = w$，其中 $w$ 固定。同一张量出现在两处时，两项都有。"
    "逐元素地，设 $\\mathbf{y} = \\mathbf{w} \\odot \\mathbf{x}$，$y_i$ 只读取 $w_i$ 与 $x_i$，"
    "所以雅可比矩阵在对角线之外全为 0："
    "$\\frac{\\partial \\mathbf{y}}{\\partial \\mathbf{w}} = "
    "\\operatorname{diag}(\\mathbf{x})$，与它相乘得 $\\bar w_i = x_i \\bar y_i$。"
    "数乘向量 $y_i = z x_i$ 把数散布开：$\\bar x_i = z \\bar y_i$，"
    "$\\bar z = \\sum_i x_i \\bar y_i$。",
    "rule.power.title": "幂法则",
    "rule.power.says": "$(x^n)' = n x^{n-1}$。",
    "rule.power.proof": "$x^n = e^{n \\log x}$，当 $x > 0$ 时由链式法则 "
    "$(x^n)' = x^n \\cdot \\frac{n}{x} = n x^{n-1}$；$n$ 为整数时由乘积法则对所有 $x$ 成立。"
    "商是与 $-1$ 次幂的乘积：$\\frac{\\partial}{\\partial x} \\frac{w}{x} = -\\frac{w}{x^2}$。",
    "rule.select.title": "分段法则",
    "rule.select.says": "在每一段内对该段求导；边界上取约定的一侧。"
    "只含下标的条件是等于 1 或 0 的因子。",
    "rule.select.proof": "不在边界上的点附近始终是同一段，而导数只与邻域有关。",
    "rule.chain.title": "链式法则",
    "rule.chain.says": "$y = f(x)$ 的局部导数是 $f'(x)$；若 $f'$ 可用输出 $y$ 表示，就这样写，"
    "不重复计算。",
    "rule.chain.proof": "$f(x + h) = f(x) + f'(x) h + o(h)$，$L(y + k) = L(y) + \\bar y k + "
    "o(k)$；取 $k = f'(x) h + o(h)$ 得 $L + \\bar y f'(x) h + o(h)$，故 "
    "$\\bar x = \\bar y f'(x)$。对向量同样成立：设 $\\mathbf{x}$ 有 $n$ 个元素，"
    "$\\mathbf{y} = \\mathbf{f}(\\mathbf{x})$ 有 $m$ 个，雅可比矩阵 $\\mathbf{J}$ 是由所有 "
    "$\\frac{\\partial y_i}{\\partial x_j}$ 组成的 $m$ 行 $n$ 列的矩阵，每个函数一行，"
    "每个变量一列；"
    "数的导数是一行，对数的导数是一列。先 $\\mathbf{g}$ 后 $\\mathbf{f}$ 时，"
    "雅可比矩阵按此次序相乘，"
    "$\\mathbf{J}_f \\mathbf{J}_g$，$m$ 乘 $k$ 与 $k$ 乘 $n$，"
    "乘积中的求和遍历从变量到函数的所有路径。"
    "无需写出雅可比矩阵：从损失往回，每一步是行乘矩阵，"
    "$\\bar x_j = \\sum_i \\bar y_i \\frac{\\partial y_i}{\\partial x_j}$，"
    "代价与前向的那一步相当；若往前走，每个变量都要单独扫一遍。"
    "逐元素作用的函数，$y_i$ 只读取 $x_i$，所以 $\\mathbf{J}$ 是由 $f'(x_i)$ 组成的对角矩阵，"
    "与它相乘即逐元素相乘。",
    "rule.softmax.title": "log-sum-exp 的导数",
    "rule.softmax.says": "$u = \\log\\sum_k e^{z_k}$ 的导数是 softmax $p_k = e^{z_k - u}$。",
    "rule.softmax.proof": "$\\frac{\\partial u}{\\partial z_k} = \\frac{e^{z_k}}{\\sum_j e^{z_j}} "
    "= e^{z_k - u}$，因为 $\\sum_j e^{z_j} = e^u$。如交叉熵那样减去标签的得分时，导数是 $p_k$ "
    "在标签处减 1：下降一步使该得分升高，其余降低；每个样本的各元素之和为 0。",
    "rule.ties.title": "最大值与最小值的导数",
    "rule.ties.says": "达到极值的各元素平分导数。",
    "rule.ties.proof": "若只有一个元素最大，它在附近仍最大，最大值就是它，导数为 1。"
    "若有 $n$ 个并列，"
    "各取 $\\frac{1}{n}$ 是 $n$ 种单侧取法的平均，属于次微分。",
    "rule.prod.title": "连乘的导数",
    "rule.prod.says": "局部导数是其余各因子的乘积；因子为 0 时也成立。",
    "rule.prod.proof": "$\\prod_r x_r = x_k \\cdot \\prod_{r \\neq k} x_r$，后一因子不含 $x_k$。",
    "rule.indices.title": "汇集读取同一元素的所有位置",
    "rule.indices.says": "读取某元素的每个位置各有一份贡献：在整数上解下标表达式的方程。",
    "rule.indices.proof": "若 $y_i$ 读取 $x_{g(i)}$，则 $\\bar x_m = \\sum_i \\bar y_i "
    "\\frac{\\partial y_i}{\\partial x_{g(i)}} [g(i) = m]$。$g$ 为仿射时条件可精确求解；余下的部分"
    "（整除、界限）作为条件写在求和号下。",
    "rule.accumulate.title": "所有用处求和",
    "rule.accumulate.says": "在多处使用的张量汇集各处的贡献。",
    "rule.accumulate.proof": "设 $L = F(a(x), b(x))$，则 $\\frac{d L}{d x} = \\frac{\\partial F}"
    "{\\partial a} a'(x) + \\frac{\\partial F}{\\partial b} b'(x)$，即多元链式法则：略去 $o(h)$，"
    "$a(x + h) = "
    "a + a' h$，"
    "$b(x + h) = b + b' h$，$F$ 的增量是两者之和。偏导数固定其余各量，全导数 $\\frac{d L}{d x}$ "
    "让依赖 $x$ 的量随之变化。设 $u = x^2$，$y = x + u$：只走一条路得 "
    "$\\frac{\\partial y}{\\partial u} \\frac{d u}{d x} = 2 x$，固定 $u$ 得 "
    "$\\frac{\\partial y}{\\partial x} = 1$，两者之和 $1 + 2 x$ 才对。无论是何种运算，贡献都相加："
    "对 $y = x u$，贡献是 $u$ 与 $x \\cdot 2 x$，合计 $3 x^2$。",
    "rule.matrix.title": "矩阵乘积",
    "rule.matrix.says": "矩阵乘积传回给一个因子的，是乘积的伴随乘以另一个因子的转置。",
    "rule.matrix.proof": "设 $\\mathbf{Z} = \\mathbf{X} \\mathbf{W}$，$\\mathbf{G}$ 在 $(b, j)$ "
    "处是 "
    "$L$ 对 $Z_{b j}$ 的导数。逐元素地，$\\frac{\\partial L}{\\partial W_{i j}} = "
    "\\sum_b X_{b i} G_{b j}$：求和的是两者的第一个下标，而矩阵乘积对左因子的最后一个、"
    "右因子的第一个下标求和，"
    "所以它是 $\\mathbf{X}^\\top \\mathbf{G}$；同样，$\\frac{\\partial L}{\\partial X_{b i}} = "
    "\\sum_j G_{b j} W_{i j}$ 是 $\\mathbf{G} \\mathbf{W}^\\top$。不用下标："
    "$dL = \\operatorname{tr}(\\mathbf{G}^\\top d\\mathbf{Z})$，其中 $d\\mathbf{Z} = d\\mathbf{X} "
    "\\mathbf{W} + \\mathbf{X} d\\mathbf{W}$，而迹中的因子可以轮换："
    "$\\operatorname{tr}(\\mathbf{G}^\\top \\mathbf{X} d\\mathbf{W}) = \\operatorname{tr}("
    "(\\mathbf{X}^\\top \\mathbf{G})^\\top d\\mathbf{W})$。所以 $\\operatorname{tr}(\\mathbf{A} "
    "\\mathbf{X})$ 的导数是 $\\mathbf{A}^\\top$，$\\mathbf{a}^\\top \\mathbf{X} \\mathbf{b}$ "
    "的导数是 "
    "$\\mathbf{a} \\mathbf{b}^\\top$，$\\mathbf{x}^\\top \\mathbf{B} \\mathbf{x}$ 中 "
    "$\\mathbf{x}$ 出现两次，"
    "导数是 $(\\mathbf{B} + \\mathbf{B}^\\top) \\mathbf{x}$。只有大小各不相同时，"
    "才能由大小看出因子的位置；方阵则任何次序都合适。",
    "rule.matrix.numerator": "在分子布局中，这些导数都是这里所写的转置。",
    "rule.collect.title": "提取公因子",
    "rule.collect.says": "有公因子的各项把公因子写在前面。",
    "rule.collect.proof": "$a c + b c = (a + b) c$。",
    "rule.constant.title": "常数伴随",
    "rule.constant.says": "处处相同的伴随直接代入使用之处。",
    "rule.constant.proof": "相等者可以互换。",
    "rule.copy.title": "伴随原样传递",
    "rule.copy.says": "与另一伴随相等的伴随不再另外命名。",
    "rule.copy.proof": "相等者可以互换。",
    "rule.adjoint.title": "伴随",
    "rule.adjoint.says": "贡献已齐，其和即伴随。",
    "rule.adjoint.proof": "每个张量在读取它的所有量之后处理，故由归纳可知没有遗漏。",
    "rule.recursion.title": "沿时间的反向传播",
    "rule.recursion.says": "某一步的伴随等于损失直接传给这一步的部分，"
    "加上下一步的伴随乘以两步之间的局部导数：从最后一步到第一步只扫一遍，没有任何量被计算两次。",
    "rule.recursion.proof": "设 $h_t = f(h_{t-1}, x_t)$，$J_t = \\frac{\\partial h_t}"
    "{\\partial h_{t-1}}$，$d_t$ 是损失直接传给第 $t$ 步的部分。于是 "
    "$\\bar h_t = d_t + J_{t+1}^\\top \\bar h_{t+1}$，反复代入得 "
    "$\\bar h_t = \\sum_{s \\geq t} J_{t+1}^\\top \\dots J_s^\\top d_s$："
    "后面的步骤传回来的量，中间每一步都要乘一个因子。若递推是线性的，"
    "$h_t = W h_{t-1} + x_t$，所有因子都相同，"
    "$\\bar h_t = \\sum_{s \\geq t} (W^\\top)^{s-t} d_s$："
    "沿 $W^\\top$ 的特征值为 $\\lambda$ 的特征向量，"
    "贡献被乘以 $\\lambda^{s-t}$，$|\\lambda| < 1$ 时消失，$|\\lambda| > 1$ 时爆炸。"
    "由门传下去的状态 $c_t = f_t \\odot c_{t-1} + g_t$ 在这条路上的因子就是 $f_t$ 本身："
    "只要门接近 1，它就通过。在 $\\tau$ 步之后截断，和中只留下 $s - t \\leq \\tau$ 的项；"
    "那是另一个程序的梯度，其中每隔若干步的状态被当作常数，略去的部分随这些因子一起变小。"
    "随机截断则平均而言是对的：设 $\\xi_t$ 以概率 $\\pi$ 为 $\\frac{1}{\\pi}$，否则为 0，相互独立，"
    "则递推 $\\bar h_t = d_t + \\xi_{t+1} J_{t+1}^\\top \\bar h_{t+1}$ 的均值是对的，"
    "因为每个 $\\xi$ 的均值为 1，而一项中没有重复的因子；但留下的部分按 $\\pi^{t-s}$ 增大，"
    "离散程度也随之增大，所以很少使用。这里保留所有的项。权重在各步是同一个，"
    "它的梯度把各步传给它的加起来。",
    "rule.name.title": "为内部的和命名",
    "rule.name.says": "函数内的和单独命名，使它只算一次并有自己的伴随。",
    "rule.name.proof": "相等者可以互换，值不变。",
    "and.rules": "和",
    "and": "且", "otherwise": "否则", "if": "若 ", "total": "合计",
    "notebook.setup": "由方程重建本文档的网络。需要安装 chainrule。",
    "notebook.check": "再次用数值方法检验梯度：",
    "toc.skip": "跳到推导",
}
